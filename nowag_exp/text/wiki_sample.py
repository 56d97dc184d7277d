"""The packaged text: 106 English Wikipedia articles of April 2016 that ship as test data inside the gensim wheel.

Even-numbered articles (counting from 0) are for calibration and odd-numbered ones for evaluation, so no article is in
both.
"""

import bz2
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from nowag_exp.errors import RequestError
from nowag_exp.files import cache_dir, expanded, made_once, sha256_file
from nowag_exp.progress import note
from nowag_exp.settings import Sha256, settings
from nowag_exp.text.documents import Documents
from nowag_exp.text.readers import read_documents
from nowag_exp.text.sources import TextSource
from nowag_exp.wheels import WheelMember

HIDDEN_TAGS = {"ref", "table", "gallery", "math", "timeline", "imagemap", "syntaxhighlight", "source", "pre", "code"}
NOT_PROSE = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|<|>|^[|!*#:;]|https?:")
ARTICLES = "articles.jsonl"
SHORTEST_PARAGRAPH = 80
"""Characters; shorter lines are headings, list entries and captions."""


@settings
class WikiSample(TextSource):
    """One half of the packaged articles.

    Attributes:
        half: ``even`` or ``odd`` articles.
        wheel: where the dump is.
        cleaned_sha256: of the cleaned articles; they depend on the parser's version, which is pinned for this reason.
    """

    half: Literal["even", "odd"]
    wheel: WheelMember
    cleaned_sha256: Sha256

    def documents(self) -> Documents:
        articles = read_documents(self.fetch(), "text")
        return articles[0::2] if self.half == "even" else articles[1::2]

    def fetch(self) -> Path:
        """Path of the cleaned articles (JSON Lines with title and text); made once, and again if they are damaged."""
        folder = cache_dir() / "texts" / f"wiki_sample-{self.cleaned_sha256[:16]}"
        made_once(folder, self._make, self._intact)
        return folder / ARTICLES

    def source_identity(self) -> dict[str, Any]:
        return {"half": self.half, "sha256": self.cleaned_sha256}

    def _intact(self, folder: Path) -> bool:
        return (folder / ARTICLES).is_file() and sha256_file(folder / ARTICLES) == self.cleaned_sha256

    def _make(self, folder: Path) -> None:
        dump, cleaned = folder / "dump.xml.bz2", folder / ARTICLES
        self.wheel.unpack(dump)
        note("cleaning the Wikipedia articles (once)")
        with cleaned.open("w", encoding="utf-8", newline="\n") as file:
            for title, text in clean_articles(dump):
                file.write(json.dumps({"title": title, "text": text}, ensure_ascii=False) + "\n")
        dump.unlink()
        found = sha256_file(cleaned)
        if found != self.cleaned_sha256:
            raise RequestError(
                f"the cleaned Wikipedia sample has sha256 {found}, expected {self.cleaned_sha256}: another version "
                "of mwparserfromhell is installed; install the pinned one: pip install -c constraints.txt -e ."
            )


def clean_articles(dump: Path) -> Iterator[tuple[str, str]]:
    """Title and prose of each article (redirects left out) in a bz2-compressed MediaWiki export, in its order.

    Raises:
        RequestError: naming it, if it expands to more than a dump does, or holds no whole XML.
    """
    parser: ElementTree.XMLPullParser[Any] = ElementTree.XMLPullParser()
    try:
        with bz2.open(dump) as file:
            for piece in expanded(file, dump, "no dump does; pin another wheel"):
                parser.feed(piece)
                ended: Iterator[Any] = parser.read_events()
                for _, page in ended:
                    if page.tag.endswith("}page") and page.find("{*}redirect") is None:
                        yield page.findtext("{*}title", ""), clean_wikitext(page.findtext("{*}revision/{*}text", ""))
        parser.close()
    except ElementTree.ParseError as error:
        raise RequestError(f"{dump}: holds no whole XML ({error}); pin another wheel") from error


def clean_wikitext(wikitext: str) -> str:
    """The paragraphs of prose in an article, separated by blank lines.

    Templates, references, tables, formulas, files and categories go; what is left of markup that the parser could not
    close goes with its paragraph, and so do lines shorter than 80 characters.
    """
    import mwparserfromhell

    code = mwparserfromhell.parse(wikitext)
    hidden = code.filter(
        recursive=True,
        matches=lambda node: (
            isinstance(node, mwparserfromhell.nodes.Template)
            or (isinstance(node, mwparserfromhell.nodes.Tag) and str(node.tag).strip().lower() in HIDDEN_TAGS)
            or (
                isinstance(node, mwparserfromhell.nodes.Wikilink)
                and re.match(r"\s*:?[A-Za-z-]{2,12}:\S", str(node.title))
            )
        ),
    )
    for node in hidden:
        try:
            code.remove(node)
        except ValueError:
            pass  # It went with a node around it.
    paragraphs = (_tidy(line) for line in code.strip_code(normalize=True, collapse=True).splitlines())
    return "\n\n".join(p for p in paragraphs if len(p) >= SHORTEST_PARAGRAPH and not NOT_PROSE.search(p))


def _tidy(line: str) -> str:
    """Close the gaps that removed templates leave: ``( , x)`` becomes ``(x)``, ``a  b`` becomes ``a b``."""
    line = re.sub(r"\s+", " ", line.replace("\xa0", " ")).strip()
    line = re.sub(r"\(\s*[;,]?\s*", "(", line)
    line = re.sub(r"\s*\(\s*\)", "", line)
    return re.sub(r"\s+([,.;:)])", r"\1", line)

"""The page as a file: what it says, what it does not let in, and what it says instead of nothing."""

import html
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nowag_exp.cli import main
from nowag_exp.compose import compose
from nowag_exp.records.record import RunRecord, save_record
from nowag_exp.records.wide import Section, render
from nowag_exp.report.page import Report, make

Make = Callable[..., RunRecord]


class _Reader(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


def test_every_cell_of_the_wide_tables_is_there_word_for_word(
    report: Report, study: list[RunRecord], of_models: list[Section], tmp_path: Path
) -> None:
    found = {html.unescape(text) for text in re.findall(r"<(?:td|th)[^>]*>(?:<b>)?([^<]*)", report.html)}
    cells = [cell.text for section in of_models for block in section.blocks for line in block.lines for cell in line]
    assert "8.72 ± 0.25 (s 0.18)" in cells
    assert set(cells) <= found
    text = render(study, "text", tmp_path)
    assert all(cell in text for cell in cells), "and they are those of nowag-exp table"


def test_the_same_records_give_the_same_bytes(study: list[RunRecord], tmp_path: Path) -> None:
    few = [record for record in study if record.labels.model == "llama2_7b" and "wanda" not in record.fingerprint]
    assert make(few, tmp_path, []) == make(few, tmp_path, [])


def test_labels_are_text_wherever_they_stand(report: Report) -> None:
    reader = _Reader(report.html)
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert "<b>though</b>" not in report.html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in report.html
    for name, content in report.figures.items():
        assert re.fullmatch(r"figures/[a-z0-9][a-z0-9_.-]*\.(svg|pdf)", name)
        if isinstance(content, str):
            assert "script" not in {
                element.tag.rpartition("}")[2] for element in ElementTree.fromstring(content).iter()
            }


def test_a_dollar_or_an_underscore_in_a_label_is_drawn_as_it_is(vary: Make, tmp_path: Path) -> None:
    records = [vary("a", "_x$y$ <z>", 9.0), vary("b", "Ωmega 方法", 8.0)]
    svg = make(records, tmp_path, []).figures["figures/bits-llama-perplexity-wiki_sample-512.svg"]
    texts = ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"_x$y$ <z>", "Ωmega 方法"} <= set(texts)


def test_nothing_is_asked_of_any_server(report: Report) -> None:
    reader = _Reader(report.html)
    links = reader.all("href") + reader.all("src")
    assert all(link.startswith(("#", "figures/", "data:,")) for link in links)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", report.html)
    assert {link for link in links if link.startswith("figures/")} == set(report.figures)


def test_ids_are_unique_and_whatever_is_pointed_at_exists(report: Report) -> None:
    reader = _Reader(report.html)
    ids = reader.all("id")
    assert len(ids) == len(set(ids))
    targets = [link[1:] for link in reader.all("href") if link.startswith("#")]
    targets += re.findall(r"url\(#([^)]+)\)", report.html)
    targets += [key for name in ("aria-labelledby", "aria-describedby") for key in reader.all(name)]
    assert set(targets) <= set(ids)


def test_figures_have_names_and_say_their_values_in_words(report: Report) -> None:
    figures = [attributes for tag, attributes in _Reader(report.html).tags if tag == "svg"]
    assert len(figures) == len(report.figures) // 2
    assert all(figure["role"] == "img" for figure in figures)
    described = re.findall(r"<desc [^>]*>([^<]*)", report.html)
    assert "nowag_p 2:4, 8.5 bits: 12.00 ± 0.25" in " ".join(described)


def test_the_page_says_what_it_covers_and_when_it_is_of(report: Report) -> None:
    text = html.unescape(re.sub(r"<[^>]+>", " ", report.html))
    assert re.search(r"records\s+20, in 14 rows", text)
    assert "dense, magnitude, nowag_p, rtn, wanda" in text
    assert "wiki_sample@512" in text
    assert "Records of one table are not all of the same origin." in text


COMMAND = re.compile(r"<code>nowag-exp ([^<]+)</code>")


def test_an_empty_section_says_what_would_fill_it_with_a_command_that_works(vary: Make, tmp_path: Path) -> None:
    only_dense = make([vary("a", "dense", 9.0)], tmp_path, []).html
    only_one = make([vary("b", "rtn", 9.0, sparsity=0.0)], tmp_path, []).html
    commands = {html.unescape(text) for text in COMMAND.findall(only_dense + only_one)}
    assert "sweep demo" in commands
    for command in commands - {"sweep demo"}:
        assert command.startswith("run ")
        overrides = command.removeprefix("run ").removeprefix("--multirun ").split()
        compose([re.sub(r"=([^,]+),.*", r"=\1", override) for override in overrides])
    for page in (only_dense, only_one):
        assert "No record has weights removed." in page
        assert "No method was calibrated on two numbers of sequences." in page
    assert "No compressed model was measured." in only_dense


def test_models_of_names_that_files_cannot_tell_apart_keep_files_of_their_own(vary: Make, tmp_path: Path) -> None:
    records = [vary("a", "wanda", 9.0, model="A b"), vary("b", "wanda", 9.0, model="a/b")]
    files = make(records, tmp_path, []).figures
    assert {"figures/costs-a-b.svg", "figures/costs-a-b-2.svg"} <= set(files)


def test_a_single_window_has_no_error_and_does_no_harm(vary: Make, tmp_path: Path) -> None:
    made = vary("a", "wanda", 9.0)
    single = replace(made.metrics[0], standard_error=None, n=1, values=[9.0], token_hash="f99")
    page = make([replace(made, metrics=[single]), vary("b", "nowag_p", 8.0)], tmp_path, []).html
    assert ">9.00</td>" in page


@pytest.fixture
def cli(workplace: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def _cli(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        out, err = capfd.readouterr()
        return code, out, err

    return _cli


def test_the_verb_writes_the_page_and_every_figure(
    cli: Callable[..., tuple[int, str, str]], study: list[RunRecord]
) -> None:
    for record in study[:2]:
        save_record(Path("out"), record)
    code, out, err = cli("report", "paths.results=out")
    assert (code, err) == (0, "")
    figures = list(Path("out/report/figures").iterdir())
    assert out == f"wrote out/report/index.html and {len(figures) // 2} figures in out/report/figures (PDF and SVG)\n"
    assert {path.read_bytes()[:4] for path in figures if path.suffix == ".pdf"} == {b"%PDF"}
    assert cli("report", "paths.results=out", "--out", "paper")[0] == 0
    assert Path("paper/index.html").read_bytes() == Path("out/report/index.html").read_bytes()


def test_a_report_of_nothing_or_to_nowhere_is_one_line(
    cli: Callable[..., tuple[int, str, str]], study: list[RunRecord]
) -> None:
    code, out, err = cli("report")
    assert (code, out) == (2, "")
    assert err == (
        "error: results: holds no records, so there is nothing to report; run an experiment (nowag-exp sweep demo), or "
        "set paths.results=DIR\n"
    )
    save_record(Path("results"), study[0])
    code, out, err = cli("report", "--out", "eval.txt")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: eval.txt/figures/")
    assert "cannot be written (Not a directory); name another folder" in err

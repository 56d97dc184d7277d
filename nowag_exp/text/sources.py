"""Where documents come from: the Hugging Face hub, files of the user, or the packaged Wikipedia sample."""

import glob
import shlex
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import Field

from nowag_exp.errors import RequestError
from nowag_exp.files import sha256_file
from nowag_exp.hub import hub_file, is_cached, resolve_commit
from nowag_exp.settings import PathText, settings
from nowag_exp.text.documents import Chained, Documents
from nowag_exp.text.encoding import MARK
from nowag_exp.text.readers import SUFFIXES, is_plain, read_documents, suffix


class TextSource(ABC):
    """An ordered list of documents with a name that fixes its content."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Where it stands in the config, for messages."""

    @abstractmethod
    def documents(self) -> Documents:
        """The documents, in order. May download."""

    @abstractmethod
    def source_identity(self) -> dict[str, Any]:
        """What fixes the content: hashes, or a repository with its commit."""

    def is_here(self) -> bool:
        """Whether it can be had without the Hugging Face hub."""
        return True


@settings
class HubText(TextSource):
    """Files of a data set on the hub, or local copies of them.

    Attributes:
        repo: data set id.
        revision: commit, tag or branch; a branch is resolved to its commit.
        files: paths in the repository, read in this order.
        text_column: where the text of a row is.
        first_documents: read only this many; ``null`` for all.
        data_dir: folder with copies, ``DATA_DIR/REPO/FILE``; where a file is missing, one that differs from it in its
            suffix alone (converted, say, from ``.json.gz`` to ``.parquet``) is read. ``null`` asks the hub.
    """

    repo: str
    revision: str
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    text_column: str
    first_documents: Annotated[int, Field(ge=1)] | None
    data_dir: str | None

    @property
    def _commit(self) -> str:
        return resolve_commit(self.repo, self.revision, "dataset")

    def paths(self) -> list[Path]:
        """The files here, downloaded if ``data_dir`` is ``None`` and they are not in the hub's cache.

        Raises:
            RequestError: if one cannot be had; it says which command to run.
        """
        if self.data_dir is None:
            return [hub_file(self.repo, self._commit, file, repo_type="dataset") for file in self.files]
        return [self._copy(Path(self.data_dir).expanduser(), file) for file in self.files]

    def is_here(self) -> bool:
        """Whether its files are in ``data_dir``, or in the hub's cache on this machine."""
        try:
            if self.data_dir is not None:
                return bool(self.paths())
            return all(is_cached(self.repo, self._commit, file, "dataset") for file in self.files)
        except RequestError:
            return False

    def documents(self) -> Documents:
        documents = _joined([read_documents(path, self.text_column) for path in self.paths()])
        return documents if self.first_documents is None else documents[: self.first_documents]

    def source_identity(self) -> dict[str, Any]:
        if self.data_dir is not None:
            copies = [_content_identity(path, self.text_column) for path in self.paths()]
            return {"files": copies, "first_documents": self.first_documents}
        return {
            "repo": self.repo,
            "commit": self._commit,
            "files": list(self.files),
            "text_column": self.text_column,
            "first_documents": self.first_documents,
        }

    def _copy(self, data_dir: Path, file: str) -> Path:
        for key, name in (("repo", self.repo), ("files", file)):
            within = PurePosixPath(name)
            if within.is_absolute() or ".." in within.parts:
                raise RequestError(f"{self.key}.{key}: {name} leads out of data_dir={data_dir}; give a path within it")
        folder = data_dir / self.repo
        exact = folder / file
        stem = exact.name[: -len(suffix(exact))]
        others = [exact.with_name(stem + known) for known in SUFFIXES if known != suffix(exact)]
        others = [path for path in others if not is_plain(path)]
        for path in (exact, *others):
            if path.is_file():
                return path
        command = ["hf", "download", "--repo-type", "dataset", self.repo, file]
        command += ["--revision", self.revision, "--local-dir", str(folder)]
        raise RequestError(
            f"{self.key}.data_dir={data_dir}: there is neither {exact} nor {', '.join(path.name for path in others)} "
            f"beside it; run: {shlex.join(command)}"
        )


@settings
class LocalText(TextSource):
    """Files of the user.

    Attributes:
        path: a file or a glob, relative to the working directory; matches are read in sorted order.
        text_column: where the text of a row is; a .txt file has none.
    """

    path: PathText
    text_column: str

    def paths(self) -> list[Path]:
        """The files that ``path`` names.

        Raises:
            RequestError: if there are none.
        """
        literal = Path(self.path).expanduser()
        found = [literal] if literal.exists() else sorted(map(Path, glob.glob(str(literal), recursive=True)))
        files = [path for path in found if path.is_file()]
        if literal.is_dir():
            raise RequestError(
                f"{self.key}.path={self.path}: is a folder; name the files in it: {self.key}.path='{literal}/*.txt'"
            )
        if not files:
            raise RequestError(
                f"{self.key}.path={self.path}: no such file; "
                "give a .txt, .jsonl, .json, .parquet or .arrow file, or a glob of them"
            )
        return files

    def documents(self) -> Documents:
        return _joined([read_documents(path, self.text_column) for path in self.paths()])

    def source_identity(self) -> dict[str, Any]:
        return {"files": [_content_identity(path, self.text_column) for path in self.paths()]}


def _content_identity(path: Path, text_column: str) -> dict[str, Any]:
    try:
        content = sha256_file(path)
        with path.open("rb") as file:
            is_marked = file.read(len(MARK)) == MARK
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); give a readable file") from error
    # The suffix says how it is read; the column matters only where there are some.
    column = None if is_plain(path) else text_column
    identity = {"sha256": content, "suffix": suffix(path), "text_column": column}
    # Once the mark of a .txt file was read as text, so results of then are not of the same tokens.
    return {**identity, "byte_order_mark": "left out"} if is_marked else identity


def _joined(parts: list[Documents]) -> Documents:
    return parts[0] if len(parts) == 1 else Chained(parts)

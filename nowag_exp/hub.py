"""The Hugging Face hub: files by repository and commit, and errors that say which command to run.

huggingface_hub keeps the files in its own cache (``HF_HOME`` moves it), in content-addressed blobs. It does not look at
them again: whoever asks for a file here gets one whose content is what its blob is named by.
"""

import functools
import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from nowag_exp.errors import RequestError
from nowag_exp.files import DiskFullError, atomic_write, sha256_file

RepoType = Literal["model", "dataset"]


def hub_file(repo: str, commit: str, file: str, repo_type: RepoType) -> Path:
    """Path of one file, downloaded if it is not in the cache.

    Raises:
        RequestError: without login, network, repository, revision or file, or if the cache has it damaged; it says
            which command to run.
    """
    from huggingface_hub import hf_hub_download

    def get() -> str:
        return hf_hub_download(repo, file, revision=commit, repo_type=repo_type)

    path = Path(_reported(repo, commit, repo_type, get, file))
    _require_intact(path, _download_command(repo, commit, repo_type, file))
    return path


def hub_folder(repo: str, commit: str, patterns: tuple[str, ...]) -> Path:
    """Path of a model's folder with the files that match ``patterns``, downloaded if they are not in the cache.

    Raises:
        RequestError: as :func:`hub_file`.
    """
    from huggingface_hub import snapshot_download

    def get() -> str:
        return snapshot_download(repo, revision=commit, allow_patterns=list(patterns))

    folder = Path(_reported(repo, commit, "model", get))
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}):
        _require_intact(path, _download_command(repo, commit, "model", path.relative_to(folder).as_posix()))
    return folder


def cached_folder(repo: str, commit: str) -> Path | None:
    """What the hub's cache on this machine has of a model; nothing is asked of the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=commit, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def is_cached(repo: str, commit: str, file: str, repo_type: RepoType) -> bool:
    """Whether the hub's cache on this machine has a file; nothing is asked of the hub."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(repo, file, revision=commit, repo_type=repo_type), str)
    except HFValidationError:
        return False


@functools.cache
def resolve_commit(repo: str, revision: str, repo_type: RepoType) -> str:
    """The commit that ``revision`` names now; kept for the rest of the process, so that all files are of one commit.

    A full commit hash is taken as it is, without asking anyone; without network, a branch is what it was when it was
    last asked for. Branches may have slashes, as ``refs/convert/parquet``.

    Raises:
        RequestError: as :func:`hub_file`.
    """
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    if ".." in revision or not re.fullmatch(r"[\w][\w./+-]*", revision):
        raise RequestError(f"{repo}: {revision[:100]!r} is no branch, tag or commit; give one")
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    # Where huggingface_hub itself keeps what it downloads by branch; files are downloaded by commit here.
    remembered = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=repo_type) / "refs" / revision

    def ask() -> str:
        commit = HfApi().repo_info(repo, revision=revision, repo_type=repo_type).sha
        assert commit is not None
        return commit

    try:
        commit = _reported(repo, revision, repo_type, ask)
    except RequestError:
        if remembered.is_file():
            return remembered.read_text(encoding="ascii").strip()
        raise
    with (
        suppress(OSError, DiskFullError),
        atomic_write(remembered) as temporary,
    ):  # A shared cache may be read-only, or full.
        temporary.write_text(commit, encoding="ascii")
    return commit


def _require_intact(path: Path, download: str) -> None:
    """Hold a file of the cache against the name of its blob: its sha256, or if it is small, git's name of the content.

    A copy that is no link into the blobs, as on Windows, has no name to be held against.
    """
    blob = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        intact = sha256_file(blob) == blob.name
    elif re.fullmatch(r"[0-9a-f]{40}", blob.name):
        content = blob.read_bytes()
        intact = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == blob.name
    else:
        return
    if not intact:
        raise RequestError(
            f"{path}: is not the file of the hub any more (its content is not what {blob.name} names); remove {blob}, "
            f"then run: {download}"
        )


def _download_command(repo: str, revision: str, repo_type: RepoType, file: str) -> str:
    flag = " --repo-type dataset" if repo_type == "dataset" else ""
    return f"hf download {repo}{f' {file}' if file else ''} --revision {revision}{flag}"


def _reported(repo: str, revision: str, repo_type: RepoType, get: Callable[[], str], file: str = "") -> str:
    import httpx2
    from huggingface_hub import errors, logging

    logging.set_verbosity_error()  # It prints each of its retries; what went wrong in the end is said below.
    what = f"{repo_type} {repo} at revision {revision}"
    download = _download_command(repo, revision, repo_type, file)
    try:
        return get()
    except errors.GatedRepoError as error:
        raise RequestError(
            f"{what}: access is gated; accept its licence on https://huggingface.co/{repo}, then run: hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise RequestError(f"{what}: not found, or private; check the id, or run: hf auth login") from error
    except errors.RevisionNotFoundError as error:
        raise RequestError(f"{what}: no such revision; set a commit, tag or branch that exists") from error
    except errors.LocalEntryNotFoundError as error:
        raise RequestError(
            f"{what}: not in the local cache and the hub cannot be reached; on a machine with network run: "
            f"{download}  and copy the cache (HF_HOME) here"
        ) from error
    except errors.EntryNotFoundError as error:
        raise RequestError(f"{what}: lacks a file we need ({_first_line(error)})") from error
    except errors.HFValidationError as error:
        raise RequestError(f"{what}: is no id of the hub, which looks like OWNER/NAME") from error
    except (errors.OfflineModeIsEnabled, errors.HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
        raise RequestError(
            f"{what}: cannot be had ({_first_line(error)}); check network, login (hf auth whoami) and disk, or on "
            f"another machine run: {download}  and copy the cache (HF_HOME) here"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

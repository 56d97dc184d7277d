"""The Hugging Face hub: files by repository and commit, and errors that say which command to run.

huggingface_hub keeps the files in its own cache (``HF_HOME`` moves it), in content-addressed blobs.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from nowag_exp.errors import RequestError

RepoType = Literal["model", "dataset"]


def hub_file(repo: str, revision: str, file: str, repo_type: RepoType) -> Path:
    """Path of one file, downloaded if it is not in the cache.

    Raises:
        RequestError: without login, network, repository, revision or file; it says which command to run.
    """
    from huggingface_hub import hf_hub_download

    def get() -> str:
        return hf_hub_download(repo, file, revision=revision, repo_type=repo_type)

    return _reported(repo, revision, repo_type, get)


def hub_folder(repo: str, revision: str, patterns: tuple[str, ...]) -> Path:
    """Path of a model's folder with the files that match ``patterns``, downloaded if they are not in the cache.

    Raises:
        RequestError: as :func:`hub_file`.
    """
    from huggingface_hub import snapshot_download

    def get() -> str:
        return snapshot_download(repo, revision=revision, allow_patterns=list(patterns))

    return _reported(repo, revision, "model", get)


def resolve_commit(repo: str, revision: str, small_file: str, repo_type: RepoType) -> str:
    """The commit that ``revision`` names; a full commit hash is taken as it is, without asking anyone.

    A branch or tag is resolved by getting ``small_file``, which also works from the cache.
    """
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    parts = hub_file(repo, revision, small_file, repo_type).parts
    return parts[parts.index("snapshots") + 1]


def _reported(repo: str, revision: str, repo_type: RepoType, get: Callable[[], str]) -> Path:
    from huggingface_hub import errors, logging

    logging.set_verbosity_error()  # It prints each of its retries; what went wrong in the end is said below.
    what = f"{repo_type} {repo} at revision {revision}"
    flag = " --repo-type dataset" if repo_type == "dataset" else ""
    try:
        return Path(get())
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
            f"hf download {repo} --revision {revision}{flag}  and copy the cache (HF_HOME) here"
        ) from error
    except errors.EntryNotFoundError as error:
        raise RequestError(f"{what}: lacks a file we need ({str(error).splitlines()[0]})") from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise RequestError(f"{what}: the hub did not answer ({str(error).splitlines()[0]}); try again") from error

"""Hub code paths on a folder in the layout of the hub's own cache, offline."""

import gzip
import hashlib
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import constants

from nowag_exp.compose import compose
from nowag_exp.config import build, build_experiment
from nowag_exp.errors import RequestError
from nowag_exp.evaluation import HubPerplexity
from nowag_exp.experiment import Workbench, check, run
from nowag_exp.hub import resolve_commit
from nowag_exp.models import ModelSource
from nowag_exp.progress import Reporter

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TINY = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "n_blocks": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 16,
    "vocabulary": 258,
    "tied": "false",
}
SIZES = [f"model.architecture.{name}={value}" for name, value in TINY.items()]


@pytest.fixture
def hub(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = workplace / "hub"
    resolve_commit.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def snapshot(hub: Path, kind: str, repo: str, commit: str = COMMIT) -> Path:
    base = hub / f"{kind}s--{repo.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(commit)
    folder = base / "snapshots" / commit
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def hub_model(hub: Path) -> Path:
    tiny = build(compose(["model=tiny"])["model"], "model", ModelSource)
    folder = snapshot(hub, "model", "meta-llama/Llama-2-7b-hf")
    shutil.copytree(tiny.folder(), folder, dirs_exist_ok=True)
    return folder


def test_an_experiment_runs_from_the_hub_layout(hub: Path, hub_model: Path) -> None:
    rows = ["", " = Title = \n", "Robert Boulter is an English film, television and theatre actor . \n" * 4]
    wikitext = snapshot(hub, "dataset", "Salesforce/wikitext") / "wikitext-2-raw-v1"
    wikitext.mkdir()
    pd.DataFrame({"text": rows}).to_parquet(wikitext / "test-00000-of-00001.parquet")
    c4 = snapshot(hub, "dataset", "allenai/c4") / "en"
    c4.mkdir()
    lines = "".join(json.dumps({"text": f"A web page, number {i}. " * 10}) + "\n" for i in range(30))
    (c4 / "c4-train.00000-of-01024.json.gz").write_bytes(gzip.compress(lines.encode()))
    experiment = build_experiment(
        compose(
            [
                "model=llama2_7b",
                *SIZES,
                "model.revision=main",
                "model.context_length=64",
                "model.dtype=float32",
                "calibration=c4",
                "calibration.revision=main",
                "calibration.n_sequences=3",
                "evaluation=wikitext2",
                "evaluation.wikitext2.revision=main",
                "method=wanda",
            ]
        )
    )
    bench = Workbench()
    check(experiment, bench)
    record = run(experiment, bench, Reporter())
    identity = record.identity
    assert identity["model"]["commit"] == COMMIT
    assert identity["calibration"]["text"]["commit"] == COMMIT
    assert record.metrics[0].protocol == "wikitext2@64"
    # Joined by blank lines, BOS once: the tokens are those bytes, cut into windows.
    text = "\n\n".join(rows).encode()
    assert record.metrics[0].n == (len(text) + 1) // 64
    assert bench.tokens(experiment, "evaluation.wikitext2").ids[0, 0] == 256  # the byte tokenizer's BOS
    assert bench.tokens(experiment, "evaluation.wikitext2").ids[1, 0] != 256


def test_a_branch_is_resolved_to_its_commit_and_a_commit_asks_nobody(hub: Path, hub_model: Path) -> None:
    at_branch = build(compose(["model=llama2_7b", "model.revision=main"])["model"], "model", ModelSource)
    at_commit = build(compose(["model=llama2_7b", f"model.revision={COMMIT}"])["model"], "model", ModelSource)
    assert at_branch.identity() == at_commit.identity()
    nowhere = build(compose(["model=llama2_13b"])["model"], "model", ModelSource)
    assert len(nowhere.identity()["commit"]) == 40


PARQUET = "refs/convert/parquet"


def test_a_branch_with_slashes_is_found_in_the_cache(hub: Path) -> None:
    folder = snapshot(hub, "dataset", "ptb-text-only/ptb_text_only")
    reference = folder.parent.parent / "refs" / PARQUET
    reference.parent.mkdir(parents=True)
    reference.write_text(COMMIT)
    (folder / "penn_treebank" / "test").mkdir(parents=True)
    sentences = ["no it was n't black monday", "but while the <unk> did n't fall apart friday"]
    pd.DataFrame({"sentence": sentences}).to_parquet(folder / "penn_treebank" / "test" / "0000.parquet")
    (text,) = build_experiment(compose(["model=tiny", "evaluation=ptb"])).evaluation.perplexities
    assert isinstance(text, HubPerplexity)
    assert text.revision == PARQUET
    assert list(text.documents()) == sentences
    assert text.source_identity()["commit"] == COMMIT


def test_a_branch_with_slashes_is_asked_for_by_its_whole_name_and_remembered(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx2
    from huggingface_hub import hf_api

    asked = []

    class Session:
        def get(self, url: str, **options: object) -> object:
            asked.append(url)
            return httpx2.Response(200, json={"id": "owner/name", "sha": COMMIT}, request=httpx2.Request("GET", url))

    with monkeypatch.context() as online:
        online.setattr(constants, "HF_HUB_OFFLINE", False)
        online.setattr(hf_api, "get_session", Session)
        assert resolve_commit("owner/name", PARQUET, "dataset") == COMMIT
    (url,) = asked
    assert url.endswith("/api/datasets/owner/name/revision/refs%2Fconvert%2Fparquet")

    resolve_commit.cache_clear()  # Another process, without network.
    assert resolve_commit("owner/name", PARQUET, "dataset") == COMMIT
    assert len(asked) == 1


def test_without_network_the_error_says_which_command_to_run(hub: Path) -> None:
    model = build(compose(["model=llama3_8b"])["model"], "model", ModelSource)
    with pytest.raises(
        RequestError, match=r"not in the local cache.*run: hf download meta-llama/Meta-Llama-3-8B --rev"
    ):
        model.check()
    experiment = build_experiment(compose(["model=tiny", "calibration=redpajama"]))
    assert experiment.calibration is not None
    with pytest.raises(RequestError, match=r"dataset togethercomputer/.*hf download .* --repo-type dataset"):
        experiment.calibration.documents()
    branch = build_experiment(compose(["model=tiny", "calibration=c4", "calibration.revision=main"]))
    with pytest.raises(RequestError, match=r"dataset allenai/c4 at revision main: .*hf download allenai/c4"):
        branch.fingerprint  # noqa: B018


def test_a_model_whose_configuration_is_not_what_the_yaml_says_is_refused(hub: Path, hub_model: Path) -> None:
    at = ["model=llama2_7b", f"model.revision={COMMIT}", "model.context_length=64"]
    build(compose([*at, *SIZES])["model"], "model", ModelSource).check()
    with pytest.raises(
        RequestError, match=r"model\.architecture\.hidden_size: is 4096, but config\.json of meta-llama/.* says 64; set"
    ):
        build(compose(at)["model"], "model", ModelSource).check()
    wrong = [*SIZES[:-1], "model.architecture.tied=true"]
    with pytest.raises(RequestError, match=r"architecture\.tied: is True, but config\.json .* says False"):
        build(compose([*at, *wrong])["model"], "model", ModelSource).check()


def test_a_model_is_here_once_all_of_it_is_in_the_cache(hub: Path, hub_model: Path) -> None:
    model = build(compose(["model=llama2_7b", f"model.revision={COMMIT}"])["model"], "model", ModelSource)
    assert model.is_here()
    (hub_model / "model.safetensors").unlink()
    assert not model.is_here()
    for elsewhere in (
        ["model=llama3_8b"],
        ["model=llama3_8b", "model.revision=main"],
        ["model=llama3_8b", "model.repo='a b'"],
    ):
        assert not build(compose(elsewhere)["model"], "model", ModelSource).is_here()


def test_a_branch_that_moves_during_a_run_does_not_mix_two_commits(hub: Path, hub_model: Path) -> None:
    model = build(compose(["model=llama2_7b", "model.revision=main"])["model"], "model", ModelSource)
    identity = model.identity()
    (hub_model.parent.parent / "refs" / "main").write_text("f" * 40)
    assert model.folder() == hub_model
    assert model.identity() == identity


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("GatedRepoError", "access is gated; accept its licence on https://huggingface.co/.*, then run: hf auth login"),
        ("RepositoryNotFoundError", "not found, or private; check the id, or run: hf auth login"),
        ("RevisionNotFoundError", "no such revision"),
        ("HfHubHTTPError", "cannot be had .*check network, login"),
    ],
)
def test_refusals_of_the_hub_say_what_to_do(monkeypatch: pytest.MonkeyPatch, error: str, message: str) -> None:
    import httpx
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(*args: object, **kwargs: object) -> str:
        raise getattr(errors, error)("no", response=httpx.Response(403, request=httpx.Request("GET", "https://x")))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    model = build(compose(["model=llama2_7b"])["model"], "model", ModelSource)
    with pytest.raises(RequestError, match=message):
        model.folder()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("[Errno -2] Name or service not known", r"cannot be had \(\[Errno -2\] .*; check network, login"),
        (
            "401 Client Error. Request URL: http://user:PLANTED@mirror.example/api/x",
            r"cannot be had \(401 .* URL: http://mirror\.example/api/x\)",
        ),
    ],
)
def test_a_branch_that_cannot_be_resolved_says_why_and_what_to_do_but_no_password(
    hub: Path, monkeypatch: pytest.MonkeyPatch, said: str, shown: str
) -> None:
    import httpx2
    from huggingface_hub import hf_api

    class Session:
        def get(self, url: str, **options: object) -> object:
            raise httpx2.ConnectError(said)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hf_api, "get_session", Session)
    with pytest.raises(RequestError, match=shown):
        resolve_commit("owner/name", "main", "dataset")


def test_half_a_model_in_the_cache_is_not_loaded(hub: Path, hub_model: Path) -> None:
    (hub_model / "model.safetensors").unlink()
    model = build(compose(["model=llama2_7b", f"model.revision={COMMIT}"])["model"], "model", ModelSource)
    with pytest.raises(RequestError, match=r"is no whole checkpoint, model\.safetensors \(or .*\) is missing"):
        model.check()


def link_into_blobs(path: Path, large: bool) -> Path:
    """Put a file of a snapshot where huggingface_hub has it: large ones by their sha256, small ones as git does."""
    content = path.read_bytes()
    named_by = hashlib.sha256(content) if large else hashlib.sha1(b"blob %d\0" % len(content) + content)
    snapshots = next(folder for folder in path.parents if folder.name == "snapshots")
    blob = snapshots.parent / "blobs" / named_by.hexdigest()
    blob.parent.mkdir(exist_ok=True)
    path.rename(blob)
    path.symlink_to(os.path.relpath(blob, path.parent))
    return blob


def flip(blob: Path) -> None:
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)


def test_a_file_of_a_model_that_was_damaged_in_the_cache_is_refused(hub_model: Path) -> None:
    model = build(compose(["model=llama2_7b", f"model.revision={COMMIT}"])["model"], "model", ModelSource)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        blob = link_into_blobs(hub_model / name, large=name == "model.safetensors")
        assert model.folder() == hub_model
        flip(blob)
        with pytest.raises(RequestError) as refused:
            model.folder()
        assert f"{name}: is not the file of the hub any more" in str(refused.value)
        assert f"remove {blob}, then run: hf download meta-llama/Llama-2-7b-hf {name} --rev" in str(refused.value)
        flip(blob)


def test_a_text_that_was_damaged_in_the_cache_is_refused(hub: Path) -> None:
    file = snapshot(hub, "dataset", "Salesforce/wikitext") / "wikitext-2-raw-v1" / "test-00000-of-00001.parquet"
    file.parent.mkdir()
    pd.DataFrame({"text": ["Robert Boulter is an English film actor ."]}).to_parquet(file)
    blob = link_into_blobs(file, large=True)
    at = ["model=tiny", "evaluation=wikitext2", f"evaluation.wikitext2.revision={COMMIT}"]
    (text,) = build_experiment(compose(at)).evaluation.perplexities
    assert isinstance(text, HubPerplexity)
    assert text.paths() == [file]
    flip(blob)
    with pytest.raises(RequestError, match=r"parquet: is not the file of the hub .* --repo-type dataset"):
        text.paths()


def test_an_id_that_is_none_is_refused() -> None:
    model = build(compose(["model=llama2_7b", "model.repo='a b'"])["model"], "model", ModelSource)
    with pytest.raises(RequestError, match="is no id of the hub, which looks like OWNER/NAME"):
        model.folder()

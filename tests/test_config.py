from pathlib import Path

import pytest

from nowag_exp.compose import compose
from nowag_exp.config import build, build_experiment
from nowag_exp.errors import ConfigError
from nowag_exp.methods import Method


def problems(overrides: list[str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build_experiment(compose(overrides))
    return caught.value.problems


@pytest.fixture
def fingerprint(workplace: Path, tiny_run: list[str]):
    return lambda *overrides: build_experiment(compose([*tiny_run, *overrides])).fingerprint


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("+method.foo=1", "method.foo: unknown key; there are: name, normalise, pattern, propagate, sparsity"),
        (
            "+method.sparsty=1",
            "method.sparsty: unknown key; there are: name, normalise, pattern, propagate, sparsity; did you mean",
        ),
        ("method.sparsity='0.5'", "method.sparsity: input should be a valid number; got '0.5'"),
        ("method.propagate=both", "method.propagate: input should be 'dense' or 'compressed'; got 'both'"),
        ("calibration.n_sequences=2.5", "calibration.n_sequences: input should be a valid integer"),
        ("calibration.n_sequences=true", "calibration.n_sequences: input should be a valid integer; got True"),
        ("calibration.n_sequences=0", "calibration.n_sequences: must be from 1 to 100000; got 0"),
        ("calibration.context_length=1", "calibration.context_length: must be at least 2 tokens; got 1"),
        ("calibration.sampling=best", "calibration.sampling: input should be 'random_in_document', 'random'"),
        ("calibration.bos=maybe", "calibration.bos: input should be 'none', 'first' or 'every'"),
        (
            "evaluation.wiki_sample.n_windows=0",
            "evaluation.wiki_sample.n_windows: must be at least 1, or null for all; got 0",
        ),
        ("model.dtype=int8", "model.dtype: input should be 'float32', 'bfloat16' or 'float16'; got 'int8'"),
        ("model.hidden_size=63", "model.hidden_size: 63 must be a multiple of 2 * n_heads"),
        (
            "method.pattern=124",
            "method.pattern: input should be a valid string; got 124 (YAML reads 2:4 without quotes",
        ),
        ("runtime.device=tpu", "runtime.device: input should be 'auto', 'cpu' or 'cuda'; got 'tpu'"),
        ("runtime.threads=0", "runtime.threads: must be 1 to 1024, or null for torch's default; got 0"),
        ("runtime.threads=1000000", "runtime.threads: must be 1 to 1024, or null for torch's default; got 1000000"),
        ("runtime.batch_tokens=0", "runtime.batch_tokens: must be at least 1"),
        ("method._target_=os.system", "method._target_: must name a class below 'nowag_exp.'; got 'os.system'"),
        ("method._target_=nowag_exp.methods.Nope", "method._target_: there is no nowag_exp.methods.Nope"),
        ("method._target_=nowag_exp.nope.X", "method._target_: there is no nowag_exp.nope.X"),
        ("method._target_=nowag_exp.models.TinyModel", "method._target_: nowag_exp.models.TinyModel is not a Method"),
        (
            "method._target_=nowag_exp.files.os.system",
            "method._target_: must name a class below 'nowag_exp.'; got 'nowag_exp.files.os.system'",
        ),
        ("method=5", "Config group override must be a string or a list. Got int"),
        ("+extra=1", "extra: unknown key; the config has: calibration, checkpoint, data_dir, evaluation"),
        ("~tracking", "tracking: must be a group of settings; got '???'"),
    ],
)
def test_a_wrong_value_is_reported_by_its_full_key(override: str, problem: str) -> None:
    found = problems(["model=tiny", override])
    assert len(found) == 1
    assert found[0].startswith(problem)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ([f"model.n_blocks={10**9}"], "model.n_blocks: must be at most 1000; got 1000000000"),
        ([f"model.init_seed={'9' * 90}"], "model.init_seed: input should be less than 4294967296; got 999"),
        ([f"seed={2**32}"], "calibration.seed: input should be less than 4294967296; got 4294967296"),
        (["method=nowag_vq", "method.seed=-1"], "method.seed: input should be greater than or equal to 0; got -1"),
        ([f"calibration.n_sequences={10**9}"], "calibration.n_sequences: must be from 1 to 100000; got 1000000000"),
        (
            ["evaluation.wiki_sample.sampling=random", f"evaluation.wiki_sample.n_windows={10**9}"],
            "evaluation.wiki_sample.n_windows: must be at most 100000 where they are drawn; got 1000000000",
        ),
        (
            ["model=local", f"model.path={'x' * 300}"],
            "model.path: must be the path of a file or folder, whose names have at most 255 bytes, not 300; got 'xxx",
        ),
        (
            ["evaluation=files", f"evaluation.files.path='in/{'ä' * 128}.txt'"],
            "evaluation.files.path: must be the path of a file or folder, whose names have at most 255 bytes, not 260",
        ),
    ],
)
def test_what_no_machine_could_do_is_refused_before_anything_is_tried(overrides: list[str], problem: str) -> None:
    (found,) = problems(["model=tiny", *overrides])
    assert found.startswith(problem)


def test_every_problem_is_reported_at_once() -> None:
    found = problems(
        ["calibration=files", "evaluation=files", "evaluation.files.n_windows=x", "+method.foo=1", "method.sparsity=no"]
    )
    assert [problem.split(":")[0] for problem in found] == [
        "calibration.path",
        "method.sparsity",
        "method.foo",
        "evaluation.files.path",
        "evaluation.files.n_windows",
    ]


def test_a_value_that_must_be_given_says_so() -> None:
    assert problems(["model=local"]) == ["model.path: is not set; add model.path=VALUE"]


def test_what_is_built_is_frozen_and_does_not_coerce() -> None:
    method = build(compose([])["method"], "method", Method)
    with pytest.raises(AttributeError):
        method.name = "other"


def test_equal_experiments_have_equal_fingerprints_and_output_and_runtime_do_not_count(fingerprint) -> None:
    assert fingerprint() == fingerprint()
    for override in ("paths.results=elsewhere", "runtime.device=cpu", "runtime.batch_tokens=1", "runtime.threads=1"):
        assert fingerprint(override) == fingerprint(), override


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "method.sparsity=0.6",
        "method.propagate=compressed",
        "method=wanda",
        "model.init_seed=1",
        "model.dtype=bfloat16",
        "calibration.n_sequences=7",
        "calibration.context_length=32",
        "calibration.bos=every",
        "evaluation.files.n_windows=3",
        "evaluation.files.context_length=32",
        "evaluation.files.sampling=evenly_spaced",
        "evaluation.files.separator=x",
        "method.pattern=2:4",
        "calibration.sampling=random",
        "calibration.path=cal.jsonl",
    ],
)
def test_whatever_changes_the_result_changes_the_fingerprint(fingerprint, workplace: Path, override: str) -> None:
    # The same bytes under another suffix are read another way.
    (workplace / "cal.jsonl").write_bytes((workplace / "cal.txt").read_bytes())
    assert fingerprint(override) != fingerprint()


def test_input_files_count_by_content_not_by_name(fingerprint, workplace: Path) -> None:
    before = fingerprint()
    assert fingerprint("calibration.text_column=body") == before, "a .txt file has no columns"
    (workplace / "cal.txt").rename(workplace / "moved.txt")
    assert fingerprint("calibration.path=moved.txt") == before
    (workplace / "moved.txt").write_text((workplace / "moved.txt").read_text() + "more")
    assert fingerprint("calibration.path=moved.txt") != before


def test_a_method_that_uses_no_activations_does_not_depend_on_the_calibration(fingerprint) -> None:
    for method in ("dense", "magnitude"):
        assert fingerprint(f"method={method}") == fingerprint(f"method={method}", "seed=5", "calibration.n_sequences=3")
    assert fingerprint("method=magnitude") == fingerprint("method=magnitude", "method.propagate=compressed")


def test_a_new_version_of_a_method_is_not_served_old_results(fingerprint, monkeypatch: pytest.MonkeyPatch) -> None:
    from nowag_exp.methods import NoWagP

    before = fingerprint("method=nowag_p")
    monkeypatch.setattr(NoWagP, "version", NoWagP.version + 1)
    assert fingerprint("method=nowag_p") != before


@pytest.mark.parametrize(
    "version",
    [
        "nowag_exp.models.tiny.VERSION",
        "nowag_exp.text.sampling.VERSION",
        "nowag_exp.evaluation.protocols.Perplexity.version",
        "nowag_exp.calibration.sets.STATISTICS_VERSION",
    ],
)
def test_a_new_version_of_any_stage_is_not_served_old_results(fingerprint, monkeypatch, version: str) -> None:
    before = fingerprint("method=wanda")
    monkeypatch.setattr(version, 99)
    assert fingerprint("method=wanda") != before

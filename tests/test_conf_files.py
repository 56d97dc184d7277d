"""Every file in conf/ and sweeps/ is composed, built and read."""

import re
from pathlib import Path

import pytest
import yaml

from nowag_exp.compose import EXECUTION_NAME, compose
from nowag_exp.config import build, build_experiment
from nowag_exp.execution import Executor
from nowag_exp.layout import folder, groups, headline, sweeps
from nowag_exp.methods import Pruner
from nowag_exp.sweep import expand, read

OPTIONS = [(group, option) for group, options in groups().items() for option in options if group != "executor"]
PATHS = {"model": ["model.path=x"], "calibration": ["calibration.path=x"], "evaluation": ["evaluation.files.path=x"]}
FILES = sorted([*folder("conf").rglob("*.yaml"), *folder("sweeps").rglob("*.yaml")])


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_builds(group: str, option: str) -> None:
    needs_path = option in ("files", "local")
    experiment = build_experiment(compose([f"{group}={option}", *(PATHS[group] if needs_path else [])]))
    if group not in ("experiment", "tracking", "evaluation"):
        part = getattr(experiment, group)
        assert part is None or option in (getattr(part, "name", None) or option)


@pytest.mark.parametrize("option", sorted(groups()["executor"]))
def test_every_executor_composes_and_builds(option: str) -> None:
    node = compose([f"executor={option}"], EXECUTION_NAME)["executor"]
    assert build(node, "executor", Executor).name == option


def test_the_promised_options_exist() -> None:
    found = groups()
    models = "llama2_7b llama2_13b llama2_70b llama3_8b llama3_70b llama32_1b smollm2_135m tiny local"
    assert set(models.split()) <= set(found["model"])
    assert {"wiki_sample", "redpajama", "c4", "wikitext2", "files"} <= set(found["calibration"])
    assert {"dense", "magnitude", "wanda", "nowag_p"} <= set(found["method"])
    assert {"wiki_sample", "wikitext2", "c4_windows", "c4_joined", "ptb", "files"} <= set(found["evaluation"])
    assert "none" in found["tracking"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_file_opens_with_what_it_is_what_it_costs_and_its_source(path: Path) -> None:
    assert len(headline(path)) > 20
    comments = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    if path.parent.name not in ("conf", "_packaged"):
        assert "Cost:" in comments
        assert "Source:" in comments or "Run:" in comments


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_file_runs_code_of_a_model_or_names_a_class_that_is_not_ours(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "trust_remote_code" not in text
    assert all(target.startswith("nowag_exp.") for target in re.findall(r"_target_: *(\S+)", text))


def test_hub_ids_have_a_revision() -> None:
    for path in FILES:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "repo" in content:
            assert content["revision"], path


@pytest.mark.parametrize("option", sorted(groups()["evaluation"]))
def test_every_measurement_stands_under_its_own_name(option: str) -> None:
    """So that ``evaluation=[a,b]`` is a set, and messages name the right key."""
    composed = compose([f"evaluation={option}"])["evaluation"]
    parts = {key: part for key, part in composed.items() if isinstance(part, dict)}
    evaluation = build_experiment(
        compose([f"evaluation={option}", *(PATHS["evaluation"] if option == "files" else [])])
    )
    built = [*evaluation.evaluation.perplexities, *evaluation.evaluation.zero_shot]
    assert sorted(part.key for part in built) == sorted(f"evaluation.{key}" for key in parts)
    assert len(parts) > 1 or option in parts


@pytest.mark.parametrize(("pattern", "sparsity"), [("unstructured", 0.5), ("2:4", 0.5), ("1:4", 0.75), ("4:4", 0.0)])
def test_sparsity_follows_from_the_pattern(pattern: str, sparsity: float) -> None:
    method = build_experiment(compose(["method=wanda", f"method.pattern={pattern}"])).method
    assert isinstance(method, Pruner)
    assert method.sparsity == sparsity


@pytest.mark.parametrize("name", sorted(sweeps()))
def test_every_sweep_expands_to_jobs_that_build(name: str) -> None:
    jobs = expand(name, [])
    assert jobs
    for job in jobs:
        build_experiment(compose(job))
    assert set(read(name)) == {"base", "axes", "seeds", "models", "unfit", "search"}

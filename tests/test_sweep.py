import re
from pathlib import Path

import pytest
import yaml

from nowag_exp import layout, sweep
from nowag_exp.compose import compose
from nowag_exp.config import build_experiment
from nowag_exp.errors import RequestError
from nowag_exp.experiment import Workbench


@pytest.fixture
def write(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    """Write sweeps/mine.yaml in a folder of its own."""
    folder = workplace / "sweeps"
    folder.mkdir()
    real = layout.folder
    for module in (layout, sweep):
        monkeypatch.setattr(module, "folder", lambda name: folder if name == "sweeps" else real(name))

    def _write(**content: object) -> None:
        (folder / "mine.yaml").write_text("# A sweep of the tests\n" + yaml.safe_dump(content, sort_keys=False))

    return _write


BASE = {
    "model": "tiny",
    "calibration": "files",
    "calibration.path": "cal.txt",
    "evaluation": "files",
    "evaluation.files.path": "eval.txt",
    "evaluation.files.n_windows": 4,
}


def test_axes_multiply_and_grids_add_up(write) -> None:
    write(base={"model": "tiny"}, axes=[{"method": "dense"}, {"method": "wanda,nowag_p", "method.pattern": "1:4,2:4"}])
    # Hydra escapes the colon, which its grammar gives a meaning in some places.
    jobs = [[text.replace(r"\:", ":") for text in job] for job in sweep.expand("mine", [])]
    assert jobs == [
        ["model=tiny", "seed=0", "method=dense"],
        ["model=tiny", "seed=0", "method=wanda", "method.pattern=1:4"],
        ["model=tiny", "seed=0", "method=wanda", "method.pattern=2:4"],
        ["model=tiny", "seed=0", "method=nowag_p", "method.pattern=1:4"],
        ["model=tiny", "seed=0", "method=nowag_p", "method.pattern=2:4"],
    ]


def test_hydras_sweep_grammar_is_understood(write) -> None:
    write(axes={"calibration.n_sequences": "range(1,4)", "method": "choice(wanda,nowag_p)"}, seeds=[3])
    jobs = sweep.expand("mine", [])
    assert len(jobs) == 6
    assert jobs[-1] == ["seed=3", "calibration.n_sequences=3", "method=nowag_p"]


def test_seeds_are_an_axis(write) -> None:
    write(axes={"method": "wanda"}, seeds=[0, 1, 2])
    assert [job[0] for job in sweep.expand("mine", [])] == ["seed=0", "seed=1", "seed=2"]
    assert [job[0] for job in sweep.expand("mine", ["seeds=[5,6]"])] == ["seed=5", "seed=6"]
    with pytest.raises(
        RequestError, match=r"command line: seeds must be a list of integers, such as \[0, 1, 2\]; got 3"
    ):
        sweep.expand("mine", ["seeds=3"])


def test_the_command_line_replaces_what_the_file_says_and_may_add_an_axis(write) -> None:
    write(base={"model": "smollm2_135m"}, axes={"method": "wanda,nowag_p"})
    jobs = sweep.expand("mine", ["model=tiny,local", "method=dense", "model.path='a b'"])
    assert jobs == [
        ["model=tiny", "seed=0", "method=dense", "model.path='a b'"],
        ["model=local", "seed=0", "method=dense", "model.path='a b'"],
    ]


def test_equal_jobs_are_merged(write) -> None:
    write(
        base=BASE, axes=[{"method": "dense,magnitude"}, {"method": "magnitude", "method.sparsity": "0.5"}], seeds=[0, 1]
    )
    plan = sweep.plan("mine", [], Workbench())
    # Neither depends on the seed, and the explicit sparsity is the default.
    assert plan.n_jobs == 6
    assert [experiment.method.name for experiment in plan.experiments] == ["dense", "magnitude"]
    assert plan.describe() == "6 jobs, 4 equal to another and merged with it, 0 recorded already, 2 to run"
    assert plan.notes() == [
        "merged with seed=0 method=dense: seed=1 method=dense",
        "merged with seed=0 method=magnitude: seed=1 method=magnitude, seed=0 method=magnitude method.sparsity=0.5, "
        "seed=1 method=magnitude method.sparsity=0.5",
    ]


def test_a_long_list_of_merged_jobs_is_cut_short(write) -> None:
    write(base=BASE, axes={"method": "dense"}, seeds=[0, 1, 2, 3, 4, 5])
    assert sweep.plan("mine", [], Workbench()).notes() == ["merged with seed=0: seed=1, seed=2, seed=3 and 2 more"]


def test_what_a_model_needs_replaces_base_and_axes_in_its_jobs_alone(write) -> None:
    write(
        base={"model": "llama2_7b,tiny", "calibration": "c4"},
        axes={"method": "wanda", "calibration.n_sequences": "1,2"},
        models={"tiny, smollm2_135m": {"calibration": "wiki_sample", "calibration.n_sequences": 4}},
    )
    hub = [f"model=llama2_7b calibration=c4 seed=0 method=wanda calibration.n_sequences={n}" for n in (1, 2)]
    tiny = "model=tiny calibration=wiki_sample seed=0 method=wanda calibration.n_sequences=4"
    assert [" ".join(job) for job in sweep.expand("mine", [])] == [*hub, tiny]
    # It may be an axis of its own, and the command line wins, whatever the model.
    (job,) = sweep.expand("mine", ["model=smollm2_135m", "calibration.n_sequences=8"])
    assert job == [
        "model=smollm2_135m",
        "calibration=wiki_sample",
        "seed=0",
        "method=wanda",
        "calibration.n_sequences=8",
    ]
    assert len(sweep.expand("mine", ["calibration=wikitext2,c4"])) == 6


def test_a_model_may_have_axes_of_its_own(write) -> None:
    write(base={"model": "tiny"}, axes={"method": "wanda"}, models={"tiny": {"method.pattern": "2:4,4:8"}})
    assert len(sweep.expand("mine", [])) == 2
    assert len(sweep.expand("mine", ["model=smollm2_135m"])) == 1


def test_methods_that_do_not_fit_are_left_out_if_the_file_says_so_and_only_they(write) -> None:
    axes = [{"method": "dense"}, {"method": "wanda,nowag_p", "method.pattern": "2:4,64:128,128:256"}]
    write(base=BASE, axes=axes, unfit="skip")
    plan = sweep.plan("mine", [], Workbench())
    assert plan.describe() == "7 jobs, 4 left out, 0 recorded already, 3 to run"
    widths = "needs input widths that {} divides, but self_attn.q_proj has 64 inputs (tiny)"
    assert plan.notes() == [
        f"2 left out: method.pattern: 64:128 {widths.format(128)}",
        f"2 left out: method.pattern: 128:256 {widths.format(256)}",
    ]
    assert [experiment.method.name for experiment in plan.experiments] == ["dense", "wanda", "nowag_p"]
    with pytest.raises(RequestError, match=r"method\.sparsity: must be in \[0, 1\)"):
        sweep.plan("mine", ["method.pattern=unstructured", "method.sparsity=2"], Workbench())
    with pytest.raises(RequestError, match=r"sweep mine: none of its 2 jobs fits; method\.pattern: 64:128 needs"):
        sweep.plan("mine", ["method=wanda", "method.pattern=64:128"], Workbench())


def test_jobs_on_the_hub_are_planned_without_it_and_others_are_checked(write, workplace: Path) -> None:
    write(
        base={"model": "llama2_7b,tiny", "calibration": "c4", "evaluation": "wikitext2"}, axes={"method": "dense,wanda"}
    )
    with pytest.raises(RequestError, match="not in the local cache"):
        sweep.plan("mine", [], Workbench())
    plan = sweep.plan("mine", [], Workbench(), absent_ok=True)
    assert plan.describe() == "4 jobs, 0 recorded already, 4 to run"
    with pytest.raises(RequestError, match=r"evaluation\.files\.path=gone\.txt: no such file"):
        sweep.plan("mine", ["evaluation=files", "evaluation.files.path=gone.txt"], Workbench(), absent_ok=True)
    local = ["model=tiny", "calibration=files", "calibration.path=cal.txt", "calibration.context_length=2000"]
    local += ["evaluation=files", "evaluation.files.path=eval.txt"]
    with pytest.raises(RequestError, match=r"calibration: the longest of 1 documents has 1\d{3} tokens"):
        sweep.plan("mine", local, Workbench(), absent_ok=True)


def test_jobs_without_a_fingerprint_are_merged_by_their_settings(write, workplace: Path) -> None:
    write(
        base={"model": "llama2_7b", "calibration": "c4", "evaluation": "paper_zero_shot"},
        axes={"method": "dense"},
        seeds=[0, 1],
    )
    plan = sweep.plan("mine", [], Workbench(), absent_ok=True)
    assert plan.describe() == "2 jobs, 1 equal to another and merged with it, 0 recorded already, 1 to run"
    assert len(sweep.plan("mine", ["method=magnitude,dense"], Workbench(), absent_ok=True).experiments) == 2


def test_the_tables_of_a_sweep_with_other_overrides_have_another_name() -> None:
    assert sweep.table_name("demo", []) == "demo"
    where_and_how = ["paths.results=out", "runtime.threads=1", "tracking=wandb", "checkpoint.save=true", "executor=ray"]
    assert sweep.table_name("demo", where_and_how) == "demo"
    tiny = sweep.table_name("demo", ["model=tiny", "seeds=[0,1]"])
    assert re.fullmatch(r"demo-[0-9a-f]{8}", tiny)
    assert sweep.table_name("demo", ["seeds=[0,1]", "paths.results=out", "model=tiny"]) == tiny
    assert sweep.table_name("demo", ["model=tiny"]) not in (tiny, "demo")
    assert sweep.changes(["seeds=[0,1]", "paths.results=out", "model=tiny"]) == ["model=tiny", "seeds=[0,1]"]


def test_every_wrong_job_is_reported_and_none_starts(write, workplace: Path) -> None:
    write(base=BASE, axes=[{"method": "dense"}, {"method": "wanda", "method.pattern": "2:5,2:3"}, {"method": "nope"}])
    with pytest.raises(RequestError) as caught:
        sweep.plan("mine", [], Workbench())
    assert all(" (in the job model=tiny calibration=files" in problem for problem in caught.value.problems)
    assert [problem.split(";")[0] for problem in caught.value.problems] == [
        "method.pattern: 2:5 needs input widths that 5 divides, but self_attn.q_proj has 64 inputs",
        "method.pattern: 2:3 needs input widths that 3 divides, but self_attn.q_proj has 64 inputs",
        "method=nope: no such option",
    ]
    assert not list(workplace.glob("results/runs/*.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"axis": {}}, r"unknown key axis; there are: base, axes, seeds, models, unfit, search; did you mean axes\?"),
        ({"axes": {"method": ""}}, r"axes\[0\]\.method must be in Hydra's sweep grammar, such as 'a,b'; got ''"),
        ({"axes": {"method": ["wanda", "nowag_p"]}}, "must be in Hydra's sweep grammar"),
        ({"axes": ["method=wanda"]}, r"axes\[0\] must map config keys to values"),
        ({"base": ["model=tiny"]}, "base must map config keys to values"),
        ({"seeds": []}, r"seeds must be a list of integers, such as \[0, 1, 2\]"),
        ({"seeds": ["a"]}, "seeds must be a list of integers"),
        ({"axes": []}, "axes is empty; name at least one key to vary, or leave axes out"),
        ({"axes": {}}, "axes is empty"),
        ({"axes": None}, "axes is empty"),
        (
            {"axes": {"calibration.n_sequences": "range(1,1)"}},
            r"n_sequences=range\(1,1\): has no values, so there would",
        ),
        ({"axes": {"method": "choice()"}}, "method=choice"),
        ({"axes": {"": "a,b"}}, r"axes\[0\] has a key that names nothing; got ''"),
        ({"seeds": [0]}, "has neither base nor axes, so it would run the default"),
        ({}, "describes no sweep; it must have base .* or axes .*; see docs/sweeps.md"),
        ({"base": {"model": "tiny"}, "unfit": "drop"}, "unfit must be one of error, skip; got 'drop'"),
        ({"base": {"model": "tiny"}, "models": ["tiny"]}, "models must map names of models to overrides"),
        ({"base": {"model": "tiny"}, "models": {"tini": {}}}, r"models\.tini: no such model; .* did you mean tiny\?"),
        ({"base": {"model": "tiny"}, "models": {"tiny": {}, "tiny,local": {}}}, "models names tiny twice"),
        (
            {"base": {"model": "tiny"}, "models": {"tiny": {"model": "local"}}},
            r"models\.tiny\.model would make it another",
        ),
        ({"base": {"model": "tiny"}, "models": {"tiny": {"seed": ""}}}, r"models\.tiny\.seed must be in Hydra's sweep"),
        ({"axes": {"method": "wanda"}, "models": {"tiny": {}}}, "models needs a model in base or axes"),
        ({"axes": {"method.sparsity": "0.5,,"}}, "is not KEY=VALUE in Hydra's override grammar"),
    ],
)
def test_a_sweep_file_that_is_wrong_says_where(write, content: dict[str, object], message: str) -> None:
    write(**content)
    with pytest.raises(RequestError, match=message):
        sweep.expand("mine", [])


def test_an_axis_that_names_nothing_is_an_error(write) -> None:
    write(base=BASE, axes={"method.sparsty": "0.5,0.6"})
    with pytest.raises(RequestError, match=r"method\.sparsty: unknown key; there are: .*did you mean sparsity"):
        sweep.plan("mine", [], Workbench())


def test_the_results_folder_is_no_axis(write) -> None:
    write(base=BASE, axes={"method": "dense"})
    with pytest.raises(RequestError, match=r"paths\.results: must be the same for all jobs of a sweep"):
        sweep.plan("mine", ["paths.results=a,b"], Workbench())


def test_an_unknown_sweep_lists_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"sweep demos: no such sweep; .*; did you mean demo\?"):
        sweep.read("demos")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- method\n", "dense\n"])
def test_a_file_that_describes_no_sweep_does_not_run_the_default(write, workplace: Path, text: str) -> None:
    write()
    (workplace / "sweeps" / "mine.yaml").write_text(text)
    with pytest.raises(RequestError, match=r"sweeps/mine\.yaml: describes no sweep; it must have base"):
        sweep.expand("mine", [])


def test_yamls_booleans_are_hydras(write) -> None:
    write(axes={"method": "kmeans_vq", "method.weighted": False})
    assert sweep.expand("mine", []) == [["seed=0", "method=kmeans_vq", "method.weighted=false"]]


def test_the_smoke_sweep_runs_every_method() -> None:
    chosen = {text.partition("=")[2] for job in sweep.expand("smoke", []) for text in job if text.startswith("method=")}
    assert chosen == set(layout.groups()["method"])


EMBEDDED = ["model=smollm2_135m", "evaluation=wiki_sample"]
TABLES = sorted(set(layout.sweeps()) - {"demo", "baselines", "smoke", "search_vq"})


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_need_nothing_from_the_hub_once_model_and_evaluation_are_the_embedded_ones(name: str) -> None:
    for job in sweep.expand(name, EMBEDDED):
        experiment = build_experiment(compose(job))
        parts = [experiment.model, *experiment.texts.values()]
        assert all("repo" not in vars(part) for part in parts), job


def test_the_page_on_sweeps_names_every_sweep_and_every_key() -> None:
    page = (Path(__file__).parents[1] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    for name in (*layout.sweeps(), *sweep.KEYS):
        assert f"`{name}`" in page, name


def test_the_example_of_the_page_on_sweeps_expands(write, workplace: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    write()
    (workplace / "sweeps" / "mine.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    plan = sweep.plan("mine", ["model=llama2_7b,llama3_8b"], Workbench(), absent_ok=True)
    # Two models, seven jobs, three seeds; dense has none, and 256:512 does not fit Llama-2-7B.
    assert plan.n_jobs == 2 * 7 * 3
    assert {reason.split(":")[0]: len(jobs) for reason, jobs in plan.left_out.items()} == {"method.pattern": 2 * 3}
    assert len(plan.experiments) == 2 * (1 + 6 * 3) - 2 * 3

from pathlib import Path

import pytest
import yaml

from nowag_exp import layout, sweep
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

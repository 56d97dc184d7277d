"""The same sweep through every engine: the same records; and what each does when a job dies or somebody stops it."""

import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from nowag_exp.compose import EXECUTION_NAME, compose, split_execution
from nowag_exp.config import build, build_experiment
from nowag_exp.errors import RequestError
from nowag_exp.execution import Executor, build_executor, processes, run_all
from nowag_exp.execution.job import Job, run_job
from nowag_exp.experiment import Workbench
from nowag_exp.progress import Reporter

JOBS = [("method=dense",), ("method=wanda",), ("method=nowag_p",)]
ENGINES = {
    "inline": [],
    "processes": ["executor.workers=2"],
    "ray": ["executor.address=RAY"],
    "slurm": ["executor.cluster=local", "executor.poll_seconds=0.1", "executor.gpus=0"],
}


@pytest.fixture
def make(workplace: Path, tiny_run: list[str]):
    """An experiment of one thread, as engines give their jobs different numbers of them."""
    return lambda *overrides: build_experiment(compose([*tiny_run, "runtime.threads=1", *overrides]))


@pytest.fixture(scope="module")
def doom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """While this file is there, every process that prunes by Wanda's score is killed by the system."""
    folder = tmp_path_factory.mktemp("doom")
    (folder / "sitecustomize.py").write_text(DOOM.format(flag=str(folder / "flag")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield folder / "flag"


DOOM = """
import os, signal
from pathlib import Path
import wrapt

def change(module):
    real = module.Wanda.score
    def score(self, *args):
        if Path({flag!r}).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *args)
    module.Wanda.score = score

wrapt.register_post_import_hook(change, "nowag_exp.methods.wanda")
"""


@pytest.fixture(scope="module")
def ray_cluster(doom: Path) -> Iterator[str]:
    """Two nodes on loopback, one core each."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def engine(request: pytest.FixtureRequest):
    def _engine(name: str, *overrides: str) -> Executor:
        settings = [*ENGINES[name], *overrides]
        if name == "ray":
            address = request.getfixturevalue("ray_cluster")
            settings = [text.replace("RAY", address) for text in settings]
        return build_executor([f"executor={name}", *settings])

    return _engine


def records(folder: Path) -> dict[str, object]:
    found = {}
    for path in sorted((folder / "runs").glob("*.json")):
        content = json.loads(path.read_text())
        del content["costs"], content["checksum"]
        found[path.name] = content
    return found


@pytest.mark.parametrize("name", ["processes", "ray", "slurm"])
def test_every_engine_gives_the_records_that_one_process_gives(make, engine, workplace: Path, name: str) -> None:
    for folder, executor in (("results", engine("inline")), ("results", engine(name))):
        outcomes = run_all([make(*job) for job in JOBS], Workbench(), Reporter(), "group", executor)
        assert [outcome.failure for outcome in outcomes] == [None] * len(JOBS)
        found = records(workplace / folder)
        (workplace / folder).rename(workplace / executor.name)
        assert len(found) == len(JOBS)
    assert records(workplace / name) == records(workplace / "inline")


@pytest.mark.parametrize("name", ["processes", "ray", "slurm"])
def test_a_job_whose_process_is_killed_fails_alone_and_is_done_by_the_next_run(
    make, engine, doom: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    executor, jobs = engine(name), [make(*job) for job in JOBS[:2]]
    doom.touch()
    try:
        outcomes = run_all(jobs, Workbench(), Reporter(), None, executor)
    finally:
        doom.unlink()
    dead = outcomes[1]
    assert [outcome.record is not None for outcome in outcomes] == [True, False]
    assert dead.crashed
    assert dead.failure.startswith("its process died: ")
    said = capfd.readouterr().err
    assert "tiny wanda 50%: FAILED, its process died: " in said
    assert "    " in said
    assert "wanda: blocks: 0 of 2" in said, "the end of its log"
    outcomes = run_all(jobs, Workbench(), Reporter(), None, engine("inline"))
    assert all(outcome.record for outcome in outcomes)


def test_a_job_that_fails_by_itself_says_why_through_every_engine(make, engine, workplace: Path) -> None:
    """The text is gone by the time the job starts, in a process that did not draw its tokens before."""
    job = make("method=wanda", "calibration.path=cal.txt")
    assert job.fingerprint
    (workplace / "cal.txt").write_text("something else " * 500)
    (outcome,) = run_all([job], Workbench(), Reporter(), None, engine("processes"))
    assert outcome.failure == "its model or texts changed since the sweep was started; run the same command again"
    assert not outcome.crashed


class FakeProcess:
    """Takes a while, and writes down which GPU it was given and who else had one at that time."""

    running: list[str] = []
    seen: list[tuple[str, list[str]]] = []

    def __init__(self, command: list[str], env: dict[str, str], **rest: object) -> None:
        self.gpu = env["CUDA_VISIBLE_DEVICES"]
        self.seen.append((self.gpu, list(self.running)))
        self.running.append(self.gpu)
        self.stdin, self.stdout = io.StringIO(), io.StringIO('{"failure": "fake"}')

    def wait(self) -> int:
        time.sleep(0.1)
        self.running.remove(self.gpu)
        return 0


def test_each_process_has_a_gpu_to_itself(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(Popen=FakeProcess, PIPE=None))
    jobs = [make("method=magnitude", f"method.sparsity=0.{n}") for n in range(1, 8)]
    outcomes = run_all(jobs, Workbench(), Reporter(), None, build_executor(["executor=processes"]))
    assert {outcome.failure for outcome in outcomes} == {"fake"}
    assert {gpu for gpu, _ in FakeProcess.seen} == {"3", "7"}
    assert all(gpu not in others for gpu, others in FakeProcess.seen)
    assert any(others for _, others in FakeProcess.seen), "they run side by side"
    with pytest.raises(RequestError, match=r"executor\.workers=3: each job has a GPU to itself, and there are 2"):
        build_executor(["executor=processes", "executor.workers=3"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["executor=rya"],
            r"executor=rya: no such option; there are: inline, processes, ray, slurm; did you mean ray\?",
        ),
        (["executor=ray", "executor.adress=x"], r"executor\.adress: unknown key; there are: address,"),
        (["executor=ray", "executor.address='127.0.0.1:1'"], r"127\.0\.0\.1:1: no Ray cluster answers there"),
        (["executor=ray", "executor.address=here"], "here: no Ray cluster answers there .it has no port."),
        (["executor=ray", "executor.cpus=0.0"], r"executor\.cpus: must be more than 0; got 0"),
        (["executor=processes", "executor.workers=0"], r"executor\.workers: must be at least 1, or null"),
        (["executor=slurm"], "executor=slurm: there is no sbatch on this machine"),
        (["executor=slurm", "executor.minutes=0"], r"executor\.minutes: must be more than 0; got 0"),
    ],
)
def test_an_engine_that_cannot_be_used_says_why(overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        build_executor(overrides)


@pytest.mark.parametrize(("name", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed_names_the_extra(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nowag_exp import extras

    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda wanted: None)
    with pytest.raises(RequestError, match=rf"executor={name}: needs {module}, .* pip install 'nowag-exp\[sweep\]'"):
        build_executor([f"executor={name}"])


def test_slurms_own_parameters_can_be_given() -> None:
    how, what = split_execution(["executor=slurm", "+executor.parameters.partition=gpu", "method=wanda"])
    assert what == ["method=wanda"]
    node = compose(how, EXECUTION_NAME)["executor"]
    assert build(node, "executor", Executor).parameters == {"partition": "gpu"}


@pytest.mark.parametrize(("visible", "names"), [("3,7", ["3", "7"]), ("-1", []), ("0,-1,2", ["0"]), ("", [])])
def test_gpus_are_those_that_cuda_shows(visible: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert processes._gpus() == names


def silent(*args: object, **rest: object) -> SimpleNamespace:
    return SimpleNamespace(stdin=io.StringIO(), stdout=io.StringIO(""), wait=lambda: 0)


def no_memory(*args: object, **rest: object) -> None:
    raise OSError("Cannot allocate memory")


@pytest.mark.parametrize(("start", "reason"), [(silent, "ended without an answer"), (no_memory, "not be started")])
def test_a_process_that_ends_oddly_is_one_failed_job(make, monkeypatch: pytest.MonkeyPatch, start, reason: str) -> None:
    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(Popen=start, PIPE=None))
    jobs = [make("method=magnitude"), make("method=dense")]
    outcomes = run_all(jobs, Workbench(), Reporter(), None, build_executor(["executor=processes"]))
    assert all(outcome.crashed and reason in outcome.failure for outcome in outcomes)


def test_what_is_recorded_starts_no_engine(make, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [make("method=magnitude"), make("method=dense")]
    run_all(jobs[:1], Workbench(), Reporter())
    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(Popen=FakeProcess, PIPE=None))
    outcomes = run_all(jobs, Workbench(), Reporter(), None, build_executor(["executor=processes"]))
    assert [outcome.failure for outcome in outcomes] == [None, "fake"]


def test_a_folder_that_a_worker_cannot_see_is_named(make, tmp_path: Path) -> None:
    job = replace(Job.of(make("method=dense"), None), folder=str(tmp_path / "gone"))
    assert str(tmp_path / "gone") in str(run_job(job))

"""Sites through every engine: the same bytes, in the same order, whatever the number of workers."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from nowag_exp import extras
from nowag_exp.compose import compose
from nowag_exp.config import build
from nowag_exp.engines import Engine, Local, Ray, SiteJob, SiteResult, build_engine, compress_site
from nowag_exp.engines.base import AHEAD
from nowag_exp.engines.ray import connect
from nowag_exp.errors import NowagError, RequestError
from nowag_exp.formats import CompressedWeight
from nowag_exp.layout import groups
from nowag_exp.ledger import Ledger
from nowag_exp.methods import Dense, Method, SiteStatistics
from nowag_exp.models import SITES

CPU = torch.device("cpu")
SHAPES = {
    "q": (64, 64),
    "k": (32, 64),
    "v": (32, 64),
    "o": (64, 64),
    "gate": (192, 64),
    "up": (192, 64),
    "down": (64, 192),
}
"""Of the tiny model."""

N_BLOCKS = 2
METHODS = sorted(groups()["method"])


def make(name: str, *overrides: str) -> Method:
    smaller = ["method.d=2", "method.iterations=3"] if name.endswith("_vq") else []
    return build(compose([f"method={name}", "model=tiny", *smaller, *overrides])["method"], "method", Method)


def sites() -> Iterator[SiteJob]:
    """All sites of the tiny model with made-up weights; each activation has dead inputs, and other ones."""
    generator = torch.Generator().manual_seed(0)
    shapes = {linear: SHAPES[linear.split(".")[1].removesuffix("_proj")] for site in SITES for linear in site.linears}
    for block in range(N_BLOCKS):
        for number, site in enumerate(SITES):
            weights = {
                f"model.layers.{block}.{linear}": torch.randn(shapes[linear], generator=generator)
                for linear in site.linears
            }
            d_in = shapes[site.linears[0]][1]
            seen = torch.randn(2 * d_in, d_in, generator=generator)
            seen[:, number] = 0
            moment = seen.T @ seen
            statistics = SiteStatistics(len(seen), seen.double().square().sum(dim=0), moment)
            yield SiteJob(block, site.name, weights, statistics)


def contents(results: list[SiteResult]) -> list[tuple[dict[str, tuple[str, dict[str, object], bytes]], list[object]]]:
    """All that a result is, but for how long it took."""

    def packed(weight: CompressedWeight) -> tuple[str, dict[str, object], bytes]:
        tensors = {name: tensor.contiguous() for name, tensor in weight.tensors().items()}
        return weight.kind, weight.layout(), save(tensors)

    return [
        ({linear: packed(weight) for linear, weight in result.weights.items()}, list(result.irregularities))
        for result in results
    ]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A site of the Ray engine takes as many CPUs as there are threads, and here there shall be room for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def doom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """If this file is there, the first process that prunes by magnitude removes it and is killed by the system."""
    folder = tmp_path_factory.mktemp("doom")
    (folder / "sitecustomize.py").write_text(DOOM.format(flag=str(folder / "flag")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        yield folder / "flag"


DOOM = """
import os, signal
from pathlib import Path
import wrapt

def change(module):
    real = module.Magnitude.score
    def score(self, *args):
        try:
            Path({flag!r}).unlink()
        except FileNotFoundError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *args)
    module.Magnitude.score = score

wrapt.register_post_import_hook(change, "nowag_exp.methods.magnitude")
"""


@pytest.fixture(scope="module")
def ray_engine(doom: Path) -> Iterator[Ray]:
    """On a cluster of two CPUs."""
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield Ray(use_gpus=False)
    ray.shutdown()


class Idle:
    """Does nothing."""

    def started(self) -> bool:
        return True


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_the_same_bytes_on_any_number_of_devices(name: str) -> None:
    method = make(name)
    alone = contents([compress_site(method, job) for job in sites()])
    assert len(alone) == N_BLOCKS * len(SITES)
    for n in (1, 2, 3):
        assert contents(list(Local([CPU] * n).run(method, sites()))) == alone


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_method_gives_the_same_bytes_on_any_number_of_nodes(ray_engine: Ray, n_workers: int) -> None:
    """All methods at once: starting a process takes longer than their sites do."""
    import ray

    # Somebody else has the other CPUs.
    others = [ray.remote(num_cpus=1)(Idle).remote() for _ in range(2 - n_workers)]
    assert all(ray.get([other.started.remote() for other in others]))
    for name in METHODS:
        method = make(name)
        alone = contents([compress_site(method, job) for job in sites()])
        assert contents(list(ray_engine.run(method, sites()))) == alone, name
    for other in others:
        ray.kill(other)


def test_a_site_is_compressed_as_the_method_says_and_its_dead_inputs_are_in_the_ledger() -> None:
    method = make("nowag_p")
    for number, job in enumerate(sites()):
        ledger = Ledger()
        expected = method.compress(job.weights, job.statistics, ledger)
        result = compress_site(method, job)
        assert all(torch.equal(result.weights[name].decompress(), expected[name].decompress()) for name in expected)
        dead, *others = result.irregularities
        assert (dead.kind, dead.where, dead.count) == ("dead_columns", job.linears, 1)
        assert others == ledger.entries
        assert result.seconds > 0
        assert int(job.statistics.dead.nonzero()) == number % len(SITES)


class Counted:
    """Sites, and how many of them are under way."""

    def __init__(self, n: int) -> None:
        self.taken, self.given, self.most, self.n = 0, 0, 0, n

    def __iter__(self) -> Iterator[SiteJob]:
        job = next(sites())
        for number in range(self.n):
            self.taken += 1
            self.most = max(self.most, self.taken - self.given)
            yield replace(job, block=number)

    def run(self, engine: Engine, method: Method) -> None:
        for _ in engine.run(method, iter(self)):
            self.given += 1


@pytest.mark.parametrize("n_devices", [1, 2, 3])
def test_memory_holds_a_few_sites_a_device_whatever_the_depth(n_devices: int) -> None:
    for n in (10, 40):
        counted = Counted(n)
        counted.run(Local([CPU] * n_devices), make("magnitude"))
        assert counted.given == n
        assert counted.most == (1 if n_devices == 1 else AHEAD * n_devices)


def test_memory_holds_a_few_sites_a_node(ray_engine: Ray) -> None:
    import ray

    counted = Counted(20)
    counted.run(ray_engine, make("magnitude"))
    assert counted.most == AHEAD * ray.cluster_resources()["CPU"]


class Fails(Dense):
    """Fails at one linear, by a mistake of its own or for a reason that it names."""

    named = False

    def compress(self, weights, statistics, ledger):  # type: ignore[no-untyped-def]
        if any("layers.0.mlp.gate_proj" in linear for linear in weights):
            if self.named:
                raise NowagError("model.layers.0.mlp.gate_proj: cannot be done")
            raise ZeroDivisionError("division by\nzero")
        return super().compress(weights, statistics, ledger)


class FailsByName(Fails):
    named = True


LINEARS = "model.layers.0.mlp.gate_proj and model.layers.0.mlp.up_proj"


def fail(engine: Engine, method: Method) -> tuple[str, int, int]:
    """What the failure says, how many results came before it, and how many sites were taken after it."""
    taken, given = 0, 0

    def jobs() -> Iterator[SiteJob]:
        nonlocal taken
        for _ in range(10):
            for job in sites():
                taken += 1
                yield job

    def run() -> None:
        nonlocal given
        for _ in engine.run(method, jobs()):
            given += 1

    with pytest.raises(NowagError) as raised:
        run()
    return str(raised.value), given, taken


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("site")]


@pytest.mark.parametrize("n_devices", [1, 3])
def test_a_site_that_fails_is_named_and_stops_the_rest(n_devices: int) -> None:
    most = 3 if n_devices == 1 else 2 + AHEAD * n_devices
    engine = Local([CPU] * n_devices)
    message, given, taken = fail(engine, Fails(name="dense", propagate="dense"))
    assert (message, given) == (f"{LINEARS}: ZeroDivisionError: division by zero", 2)
    assert taken <= most
    message, given, _ = fail(engine, FailsByName(name="dense", propagate="dense"))
    assert (message, given) == ("model.layers.0.mlp.gate_proj: cannot be done", 2)
    assert workers() == []


def test_a_site_that_fails_in_another_process_is_named_too(ray_engine: Ray) -> None:
    job = next(sites())
    weights = {linear: weight.clone() for linear, weight in job.weights.items()}
    weights["model.layers.0.self_attn.k_proj"][3, 5] = float("nan")
    with pytest.raises(NowagError) as raised:
        list(ray_engine.run(make("wanda"), iter([job, replace(job, weights=weights), job])))
    expected = "model.layers.0.self_attn.k_proj: 1 of 2048 weights are NaN or infinite in the checkpoint; download the"
    assert str(raised.value).startswith(expected)
    hessian = replace(job.statistics, second_moment=-torch.eye(64))
    with pytest.raises(NowagError, match=r"q_proj and .*: the Hessian of their input is not positive definite with"):
        list(ray_engine.run(make("gptq"), iter([replace(job, statistics=hessian)])))


def test_a_site_whose_process_is_lost_is_compressed_by_another(ray_engine: Ray, doom: Path) -> None:
    method = make("magnitude")
    doom.touch()
    found = contents(list(ray_engine.run(method, sites())))
    assert not doom.exists(), "one was lost"
    assert found == contents([compress_site(method, job) for job in sites()])


class Shelf:
    """Keeps factors as a store does: it can be neither copied nor sent."""

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}
        self.asked: list[str] = []
        self.lock = threading.Lock()

    def get(self, name: str) -> Tensor | None:
        self.asked.append(name)
        return self.kept.get(name)

    def __setitem__(self, name: str, factor: Tensor) -> None:
        assert name not in self.kept, "it was there already"
        self.kept[name] = factor


def run_with_shelves(engine: Engine, method: Method, shelves: list[Shelf]) -> list[SiteResult]:
    jobs = [
        replace(job, statistics=replace(job.statistics, factors=shelf))
        for job, shelf in zip(sites(), shelves, strict=True)
    ]
    return list(engine.run(method, iter(jobs)))


def check_factors(engine: Engine) -> None:
    shelves = [Shelf() for _ in range(N_BLOCKS * len(SITES))]
    sparse, rounded = make("sparsegpt"), make("gptq")
    first = run_with_shelves(engine, sparse, shelves)
    assert [list(shelf.kept) for shelf in shelves] == [["dampening=0.01"]] * len(shelves), (
        "kept where the jobs are from"
    )
    kept = [dict(shelf.kept) for shelf in shelves]
    second = run_with_shelves(engine, rounded, shelves)
    assert [shelf.kept for shelf in shelves] == kept, "one factor serves both"
    assert contents(first) == contents([compress_site(sparse, job) for job in sites()])
    assert contents(second) == contents([compress_site(rounded, job) for job in sites()])
    for shelf in shelves:  # What is kept is used: with another factor the result is another one.
        shelf.kept = {name: 2 * torch.eye(len(factor)) for name, factor in shelf.kept.items()}
    assert contents(run_with_shelves(engine, rounded, shelves)) != contents(second)


@pytest.mark.parametrize("n_devices", [1, 2])
def test_a_factor_is_made_once_and_kept_where_the_job_comes_from(n_devices: int) -> None:
    check_factors(Local([CPU] * n_devices))


def test_a_factor_made_by_another_process_is_kept_here(ray_engine: Ray) -> None:
    check_factors(ray_engine)


def test_a_run_that_is_given_up_leaves_nothing_running() -> None:
    results = Local([CPU] * 2).run(make("magnitude"), sites())
    next(results)
    assert workers()
    results.close()
    assert workers() == []


def test_ray_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda wanted: None)
    expected = r"runtime\.engine=ray: needs ray, .* pip install 'nowag-exp\[sweep\]' .* or use runtime\.engine=local"
    with pytest.raises(RequestError, match=expected):
        build_engine("ray", CPU).check()


def test_a_site_that_no_node_has_cpus_for_says_what_to_set(ray_engine: Ray) -> None:
    torch.set_num_threads(3)
    with pytest.raises(
        RequestError, match=r"a site takes 3 CPUs, .* node of the cluster has \d; set runtime\.threads="
    ):
        list(ray_engine.run(make("magnitude"), sites()))


def test_a_cluster_that_does_not_answer_is_named() -> None:
    with pytest.raises(RequestError, match=r"runtime\.engine=ray: Ray cannot be reached"):
        connect("nowhere", "runtime.engine=ray")


def test_one_device_needs_no_threads() -> None:
    engine = build_engine("local", CPU)
    assert isinstance(engine, Local)
    assert engine.devices == [CPU]

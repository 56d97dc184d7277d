"""Searches on the tiny model: what they find, what they leave out, and that nothing is run twice."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nowag_exp.cli import main
from nowag_exp.compose import compose
from nowag_exp.config import Experiment, build_experiment
from nowag_exp.errors import NowagError, RequestError
from nowag_exp.execution import Executor, Inline, run_all
from nowag_exp.experiment import Workbench
from nowag_exp.methods import NoWagVQ
from nowag_exp.models import linear_shapes
from nowag_exp.progress import Reporter
from nowag_exp.records.record import load_records
from nowag_exp.runner import Outcome, run_logged
from nowag_exp.search import Search, read_search
from nowag_exp.search.fit import bits_per_weight
from nowag_exp.search.render import pareto
from nowag_exp.search.request import measured
from nowag_exp.search.trial import Trial
from nowag_exp.settings import settings

INLINE = Inline(name="inline")


def opened(*overrides: str) -> Search:
    return Search(read_search("mine", list(overrides)), Workbench(), Reporter())


def searched(*overrides: str, executor: Executor = INLINE) -> list[Trial]:
    with opened(*overrides) as search:
        search.run(executor)
        return search.trials()


def done(trials: Iterable[Trial]) -> list[tuple[dict[str, Any], float | None]]:
    return [(trial.values, trial.objective) for trial in trials if trial.outcome == "done"]


def times_run(results: Path) -> Counter[str]:
    """How often each experiment was computed: a log is appended to, and each run says once what it kept."""
    return Counter({path.stem: path.read_text().count(" kept ") for path in (results / "logs").glob("*.log")})


def test_a_search_takes_records_of_its_text_under_another_file_name(write, workplace: Path) -> None:
    write({"trials": 2})
    (workplace / "eval2.txt").write_bytes((workplace / "eval.txt").read_bytes())
    assert main(["sweep", "mine"]) == 0
    ran = times_run(Path("results"))
    assert main(["sweep", "mine", "evaluation.files.path=eval2.txt"]) == 0
    assert times_run(Path("results")) == ran


def test_a_search_of_all_combinations_finds_what_the_grid_has(write) -> None:
    write({"trials": 100}, {"method.init": "random"})
    with opened() as search:
        search.run(INLINE)
        trials = search.trials()
        assert search.ended_early == "every combination has been tried"
    choices = {tuple(values.values()) for values, _ in done(trials)}
    assert len(done(trials)) == len(choices) == 12
    grid = {}
    for d, bits, restarts in itertools.product((2, 4), (1, 1.5, 2), (1, 2)):
        job = [f"{key}={value}" for key, value in read_search("mine", []).base.items()]
        job += [f"method.d={d}", f"method.bits={bits}", f"method.restarts={restarts}", "paths.results=grid"]
        (outcome,) = run_all([build_experiment(compose(job))], Workbench(), Reporter())
        assert outcome.record is not None
        grid[(str(d), str(bits), restarts)] = outcome.record.metrics[0].value
    best = min(done(trials), key=lambda trial: trial[1] or 0)
    assert (tuple(best[0].values()), best[1]) == min(grid.items(), key=lambda item: item[1])


def test_the_sampler_learns(workplace: Path) -> None:
    """Of a bowl with 1600 points, 60 trials find one far better than 60 random ones are expected to."""
    from nowag_exp.search.journal import Journal
    from nowag_exp.search.space import dimension

    space = {key: dimension(key, "range(0,40)") for key in ("method.x", "method.y")}
    distributions = {key: one.distribution() for key, one in space.items() if one}

    def bowl(values: dict[str, Any]) -> float:
        return float((values["method.x"] - 31) ** 2 + (values["method.y"] - 7) ** 2)

    lowest = {}
    for sampler in ("tpe", "random"):
        found = []
        for seed in range(2):
            journal = Journal(workplace / f"{sampler}-{seed}.journal", True, distributions, sampler, seed)
            with journal.working():
                for _ in range(60):
                    trial = journal.ask()
                    journal.tell_value(trial.number, bowl(trial.params))
            found.append(min(trial.value for trial in journal.trials()))
        lowest[sampler] = sum(found) / 2
    assert lowest["tpe"] <= 5
    assert lowest["tpe"] < lowest["random"]


@pytest.mark.parametrize("method", ["nowag_vq", "kmeans_vq"])
@pytest.mark.parametrize(("d", "bits"), [(2, 1.5), (3, 1), (5, 1.2), (6, 1.5), (7, 1)])
def test_bits_counted_before_are_those_of_the_record(
    workplace: Path, tiny_run, method: str, d: int, bits: float
) -> None:
    options = [f"method={method}", f"method.d={d}", f"method.bits={bits}", "method.iterations=1"]
    experiment = build_experiment(compose([*tiny_run, *options]))
    shapes = linear_shapes(Workbench().architecture(experiment))
    (outcome,) = run_all([experiment], Workbench(), Reporter())
    assert outcome.record is not None
    assert bits_per_weight(experiment, shapes) == outcome.record.compression.bits_per_weight


def test_a_choice_that_does_not_fit_is_not_run_and_does_not_count(write) -> None:
    # d * bits: 2.5 and 7.5 are no whole numbers; 2^16 codewords are too many; 4 x 2 is above the budget.
    write({"space": {"method.d": "2,4,6,8", "method.bits": "1,1.25,2"}, "budget": {"bits_per_weight": 2}, "trials": 20})
    trials = searched()
    by_choice = {trial.choice: trial for trial in trials if trial.outcome != "repeated"}
    assert len(by_choice) == 12
    run = {choice for choice, trial in by_choice.items() if trial.outcome == "done"}
    records = {record.fingerprint: record for record in load_records(Path("results"))}
    assert len(records) == len(run)
    for trial in by_choice.values():
        if trial.outcome == "done":
            assert trial.bits_per_weight == records[str(trial.fingerprint)].compression.bits_per_weight
            assert trial.bits_per_weight is not None
            assert trial.bits_per_weight <= 2
    assert "bits: d * bits must be a whole number" in str(by_choice["2", "1.25"].reason)
    assert "65536 codewords" in str(by_choice["8", "2"].reason)
    assert "bits a weight are more than the budget of 2" in str(by_choice["4", "2"].reason)


def test_a_search_is_repeatable(write) -> None:
    write()
    first, second = searched("paths.results=a"), searched("paths.results=b")
    assert first == second
    assert searched("paths.results=c", "seeds=[1]") != first


def test_finished_trials_count_and_recorded_experiments_cost_nothing(write) -> None:
    write()
    first = searched()
    assert len(done(first)) == 5
    ran = times_run(Path("results"))
    assert searched() == first
    more = searched("search.trials=7")
    assert done(more)[:5] == done(first)
    assert len(done(more)) == 7
    assert {name: n for name, n in times_run(Path("results")).items() if name in ran} == ran
    # A lost journal costs nothing but the time to look: the same is suggested, and found recorded.
    for journal in Path("results/searches").glob("*.journal"):
        journal.unlink()
    assert done(searched("search.trials=7")) == done(more)
    assert set(times_run(Path("results")).values()) == {1}


@settings
class Dying(Executor):
    """Takes ``at_once`` experiments, runs the first of them, and is interrupted after so many."""

    name: str
    after: int
    at_once: int

    def run(
        self, experiments: Iterable[Experiment], bench: Workbench, reporter: Reporter, group: str | None
    ) -> Iterator[Outcome]:
        pulled = iter(experiments)
        for n_ended in itertools.count():
            batch = list(itertools.islice(pulled, self.at_once))
            if n_ended == self.after:
                raise KeyboardInterrupt
            for experiment in batch:
                yield run_logged(experiment, bench, reporter, group)


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_search_that_was_interrupted_goes_on_where_it_stopped(write, at_once: int) -> None:
    write({"trials": 5, "budget": {"bits_per_weight": 2.2}})
    for after in (1, 2, 0):
        with pytest.raises(KeyboardInterrupt):
            searched(executor=Dying(name="dying", after=after, at_once=at_once))
    resumed = searched()
    assert len(done(resumed)) == 5
    assert set(times_run(Path("results")).values()) == {1}
    assert not [trial for trial in resumed if trial.outcome in ("running", "waiting", "failed")]
    if at_once == 1:
        whole = searched("paths.results=whole")
        assert [(trial.values, trial.outcome, trial.objective) for trial in resumed] == [
            (trial.values, trial.outcome, trial.objective) for trial in whole
        ]


def test_two_searches_share_the_work(write) -> None:
    write({"trials": 9})
    with opened() as first, opened() as second:
        mine, yours = (INLINE.run(one.experiments(), Workbench(), Reporter(), None) for one in (first, second))
        turns: list[tuple[Search, Iterator[Outcome]]] = [(first, mine), (second, yours)]
        while turns:
            search, outcomes = turns.pop(0)
            # The other one has a trial running meanwhile: it is told only at its own turn.
            outcome = next(outcomes, None)
            if outcome is not None:
                search.tell(outcome)
                turns.append((search, outcomes))
        trials = first.trials()
        assert trials == second.trials()
    assert len(done(trials)) == 9
    assert len({trial.fingerprint for trial in trials if trial.outcome == "done"}) == 9
    assert set(times_run(Path("results")).values()) == {1}


def test_a_running_trial_of_another_process_is_left_alone_and_counts(write) -> None:
    write({"trials": 3})
    with opened() as first:
        running = first.claim()
        assert running is not None
        trials = searched()
        assert [trial.outcome for trial in trials if trial.number == running[0]] == ["running"]
        assert len(done(trials)) == 2
    assert len(done(searched())) == 3, "once that process is gone, its trial is tried again"


def test_a_killed_process_and_one_beside_it(workplace: Path, tiny_cache: Path, tiny_run: list[str]) -> None:
    own = ["search.trials=6", "method.iterations=2", "method.d=2,4", "method.bits=1,1.5"]
    command = ["sweep", "search_vq", "model=tiny", *tiny_run[1:], *own]
    environment = {**os.environ, "NOWAG_EXP_CACHE": str(tiny_cache)}
    start = [sys.executable, "-m", "nowag_exp", *command]
    first = subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(workplace.glob("results/runs/*.json")) and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.02)
    second = subprocess.Popen(start, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first.send_signal(signal.SIGKILL)
    assert first.wait() in (-signal.SIGKILL, 0)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert "the best one again: nowag-exp run model=tiny" in out
    assert len(load_records(Path("results"))) == 6
    assert set(times_run(Path("results")).values()) <= {0, 1}, "an experiment that was killed has kept nothing"


def test_a_failed_trial_is_said_counts_and_is_tried_again_by_the_next_process(
    write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({"trials": 3})

    def fail(*args: object) -> None:
        raise NowagError("model.layers.0.x: is not to be had")

    with monkeypatch.context() as patched:
        patched.setattr(NoWagVQ, "target", fail)
        trials = searched()
        assert [trial.outcome for trial in trials] == ["failed"] * 3
        assert "is not to be had (traceback in results/logs/" in str(trials[0].reason)
    again = searched()
    assert [trial.values for trial in again] == [trial.values for trial in trials]
    assert len(done(again)) == 3


def test_a_trial_whose_record_is_gone_is_tried_again(write) -> None:
    write({"trials": 3})
    first = searched()
    Path("results/runs", f"{first[1].fingerprint}.json").unlink()
    again = searched()
    assert sorted(done(again), key=str) == sorted(done(first), key=str)


def test_what_the_settings_refer_to_makes_another_search(write, workplace: Path) -> None:
    write({"trials": 1})
    searched()
    searched("paths.results=results", "runtime.threads=1")
    assert len(list(workplace.glob("results/searches/*.journal"))) == 1
    (workplace / "cal.txt").write_text((workplace / "cal.txt").read_text()[::-1])
    searched()
    assert len(list(workplace.glob("results/searches/*.journal"))) == 2


def test_intervals_are_searched(write) -> None:
    write({"space": {"method.tolerance": "interval(0.001,0.1)", "method.d": "2,4"}, "trials": 3}, {"method.bits": 1})
    values = [values["method.tolerance"] for values, _ in done(searched())]
    assert len(set(values)) == 3
    assert all(0.001 <= value <= 0.1 for value in values)


def test_the_command_line_fixes_or_widens_a_key(write) -> None:
    write()
    request = read_search("mine", ["method.d=2", "method.init=random,kmeans++", "search.trials=3"])
    assert list(request.space) == ["method.bits", "method.restarts", "method.init"]
    assert request.base["method.d"] == "2"
    assert request.trials == 3


def test_overrides_of_a_model_replace_the_base(write) -> None:
    write(models={"smollm2_135m,tiny": {"calibration.n_sequences": 3}})
    assert read_search("mine", []).base["calibration.n_sequences"] == "3"
    assert read_search("mine", ["calibration.n_sequences=5"]).base["calibration.n_sequences"] == "5"
    assert "calibration.n_sequences" not in read_search("mine", ["model=local"]).base


def test_the_verb_ends_with_the_trials_the_front_and_a_command_that_finds_the_best(write, capsys) -> None:
    write({"trials": 6})
    assert main(["sweep", "mine"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    rows = [line.split() for line in lines if line[:1].isdigit()]
    values = [float(row[5]) for row in rows]
    assert len(rows) == 6
    assert values == sorted(values)
    assert [row[-1] for row in rows if "best," in row] == ["Pareto"]
    assert "after adjustment for all 15 pairs" in out, "of six trials"
    assert "Of the settings nothing is shown, one seed each" in out
    command = next(line for line in lines if line.startswith("the best one again: nowag-exp run "))
    assert main(command.removeprefix("the best one again: nowag-exp ").split()) == 0
    again = capsys.readouterr()
    assert "recorded already, nothing was computed" in again.err
    assert {path.name for path in Path("results/tables").iterdir()} == {
        f"mine.{end}" for end in ("txt", "csv", "md", "tex")
    }


def test_the_front_is_what_nothing_beats() -> None:
    assert pareto([(2.0, 1.0), (1.0, 2.0), (2.0, 2.0), (1.0, 2.0), (3.0, 0.5)]) == [True, True, False, True, True]


def test_the_metrics_that_are_promised_are_those_that_a_record_has(workplace: Path, tiny_run: list[str]) -> None:
    for fidelity in ("true", "false"):
        experiment = build_experiment(compose([*tiny_run, "method=magnitude", f"evaluation.fidelity={fidelity}"]))
        (outcome,) = run_all([experiment], Workbench(), Reporter())
        assert outcome.record is not None
        assert measured(experiment.evaluation) == [(one.name, one.protocol) for one in outcome.record.metrics]


@pytest.mark.real_model
def test_the_zero_shot_metrics_that_are_promised_are_those_that_a_record_has(tmp_path: Path) -> None:
    options = [
        "model=tiny",
        "evaluation=wiki_zero_shot",
        "method=magnitude",
        "evaluation.wiki_zero_shot.limit=2",
    ]
    experiment = build_experiment(compose([*options, f"paths.results={tmp_path}"]))
    (outcome,) = run_all([experiment], Workbench(), Reporter())
    assert outcome.record is not None, outcome.failure
    assert sorted(measured(experiment.evaluation)) == sorted((one.name, one.protocol) for one in outcome.record.metrics)


PERPLEXITY = "perplexity files:eval.txt@64, kl files:eval.txt@64, top1_agreement files:eval.txt@64"


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"spce": {}}, r"search\.spce: unknown key; there are: space, .*; did you mean space\?"),
        ({"space": {}}, r"search\.space: must map config keys to values in Hydra's sweep grammar"),
        ({"space": {"method.d": [2, 4]}}, r"search\.space\.method\.d: must be in Hydra's sweep grammar"),
        ({"space": {"method.d": "2"}}, r"search\.space: leaves nothing to choose; give a key several values"),
        ({"space": {"method.d": "2,,"}}, "is not KEY=VALUE in Hydra's override grammar"),
        ({"space": {"method.e": "2,4"}}, r"method\.e: unknown key; there are: .*"),
        ({"space": {"method.d": "interval(4,2)"}}, r"interval\(4,2\) must go from a smaller to a larger number"),
        ({"space": {"method.tolerance": "tag(log,interval(0,1))"}}, "both above 0 for a logarithmic scale"),
        ({"space": {"model": "tiny,local"}}, r"search\.space\.model: a search varies method and calibration only"),
        ({"space": {"method.bits": "5,7.5"}}, r"search\.space: none of 2 combinations can be run; of 1 of them: "),
        ({"trials": 0}, r"search\.trials: must be a whole number, at least 1; got 0"),
        ({"trials": 2.5}, r"search\.trials: must be a whole number"),
        ({"minimise": "perplexity wikitext2@4096"}, rf"is not measured; there are: {PERPLEXITY}"),
        ({"minimise": "top1_agreement"}, r"of top1_agreement, more is better; write maximise: top1_agreement"),
        ({"maximise": "kl"}, r"of kl, less is better; write minimise: kl"),
        (
            {"minimise": "kl", "maximise": "top1_agreement"},
            "has both minimise and maximise; a search has one objective",
        ),
        ({"budget": {"megabytes": 3}}, r"search\.budget: must be a group with bits_per_weight"),
        ({"budget": {"bits_per_weight": 0}}, r"search\.budget\.bits_per_weight: must be a number above 0; got 0"),
        ({"budget": {"bits_per_weight": 0.5}}, r"none of 12 combinations .* more than the budget of 0\.5"),
        ({"sampler": "tpee"}, r"search\.sampler: tpee is unknown; there are: tpe, random; did you mean tpe\?"),
    ],
)
def test_a_search_that_is_wrong_says_where(write, search: dict[str, Any], message: str) -> None:
    write(search)
    with pytest.raises(RequestError, match=message):
        searched()
    assert not list(Path("results").glob("runs/*.json"))


def test_other_bad_input_is_an_error(write, capsys: pytest.CaptureFixture[str]) -> None:
    for content, message in (
        ({"axes": {"method.d": "2,4"}}, "sweeps/mine.yaml: has both axes and search"),
        ({"seeds": [0, 1]}, "seeds: a search takes one, such as [0]"),
    ):
        write(**content)
        assert main(["sweep", "mine"]) == 2
        assert message in capsys.readouterr().err
    write()
    assert main(["sweep", "mine", "model=tiny,local"]) == 2
    assert "search.space.model: a search varies method and calibration only" in capsys.readouterr().err


def test_a_budget_needs_a_method_whose_size_follows_from_its_settings(write) -> None:
    write({"space": {"method": "magnitude,wanda"}, "budget": {"bits_per_weight": 9}})
    content = (
        Path("sweeps/mine.yaml")
        .read_text()
        .replace("method.iterations: 2", "seed: 0")
        .replace("  method: nowag_vq\n", "")
    )
    Path("sweeps/mine.yaml").write_text(content)
    with pytest.raises(RequestError, match="is known only after it has run; leave the budget out"):
        searched()


def test_a_damaged_journal_is_named(write) -> None:
    write({"trials": 1})
    searched()
    (journal,) = Path("results/searches").glob("*.journal")
    journal.write_text("{" + journal.read_text())
    with pytest.raises(RequestError, match=r"mine-[0-9a-f]{16}\.journal: is damaged .*; remove it"):
        searched()


def test_without_optuna_the_extra_is_named(write, monkeypatch: pytest.MonkeyPatch) -> None:
    write()
    monkeypatch.delitem(sys.modules, "nowag_exp.search.journal", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "optuna"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RequestError, match=r"needs optuna, .*pip install 'nowag-exp\[sweep\]' \(from a checkout: "):
        searched()


def test_a_plan_of_a_search_shows_one_trial(write, capsys: pytest.CaptureFixture[str]) -> None:
    write({"trials": 6})
    assert main(["plan", "mine"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("search mine: 6 trials of ")
    assert "one of its trials; all 6 take about as many times that" in out
    assert "tiny nowag_vq" in out
    assert not list(Path("results/runs").glob("*.json"))

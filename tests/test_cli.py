"""The command as a user meets it: exit codes, one line an error, files where they are said to be."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nowag_exp.cli import main
from nowag_exp.records import wide
from nowag_exp.sweep import table_name


@pytest.fixture
def cli(workplace: Path, capfd: pytest.CaptureFixture[str]):
    """Run the command in this process: exit code, stdout, stderr."""

    def _cli(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(list(arguments))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        out, err = capfd.readouterr()
        return code, out, err

    return _cli


def test_run_prints_the_number_and_where_its_record_is_and_again_computes_nothing(cli, tiny_run: list[str]) -> None:
    code, out, err = cli("run", *tiny_run, "paths.results=out")
    assert code == 0, err
    assert "perplexity files:eval.txt@64" in out
    path = Path(out.split("record: ")[1].strip())
    assert path.parent == Path("out/runs")
    assert json.loads(path.read_text())["labels"]["method"] == "nowag_p"
    code, again, err = cli("run", *tiny_run, "paths.results=out")
    assert code == 0
    assert "recorded already" in err
    assert again == out


def test_run_keeps_everything_below_the_results_folder(cli, workplace: Path, tiny_run: list[str]) -> None:
    before = {path.name for path in workplace.iterdir()}
    assert cli("run", *tiny_run, "paths.results=out")[0] == 0
    assert {path.name for path in workplace.iterdir()} - before == {"out"}
    assert {path.name for path in (workplace / "out").iterdir()} == {"runs", "store", "logs"}


def test_sweep_prints_the_table_and_writes_it_in_every_format(cli, workplace: Path, tiny_run: list[str]) -> None:
    code, out, err = cli("sweep", "demo", *tiny_run, "paths.results=out")
    assert code == 0, err
    assert "7 jobs, 0 recorded already, 7 to run" in err
    rows = [
        line.split()[:2] for line in out.splitlines() if line.startswith(("dense", "magnitude", "wanda", "nowag_p"))
    ]
    assert sorted(map(tuple, rows)) == [
        ("dense", "-"),
        *((method, pattern) for method in ("magnitude", "nowag_p", "wanda") for pattern in ("2:4", "50%")),
    ]
    name = table_name("demo", tiny_run)
    assert {path.name for path in Path("out/tables").iterdir()} == {
        f"{name}.{end}" for end in ("txt", "csv", "md", "tex")
    }
    made_by = f"nowag-exp sweep demo {' '.join(sorted(tiny_run))}"
    text = Path(f"out/tables/{name}.txt").read_text()
    assert text.split("\n")[0] == made_by
    assert out.startswith(text.removeprefix(f"{made_by}\n\n"))
    assert Path(f"out/tables/{name}.csv").read_text().startswith("model,")
    assert Path(f"out/tables/{name}.tex").read_text().startswith(f"% {made_by}\n")
    code, again, err = cli("sweep", "demo", *tiny_run, "paths.results=out")
    assert code == 0
    assert "7 recorded already, 0 to run" in err
    assert again == out


def test_plan_prints_jobs_and_what_they_take_and_runs_nothing(cli, workplace: Path, tiny_run: list[str]) -> None:
    code, out, err = cli("plan", "demo", *tiny_run, "paths.results=out", "executor=inline")
    assert code == 0, err
    assert out.startswith("sweep demo: 7 jobs, 0 recorded already, 7 to run\njob ")
    assert "shared: tiny: the dense model on files:eval.txt@64, " in out
    assert "in all: 7 of 7 jobs to run, " in out
    assert not list(Path("out").rglob("*.safetensors"))
    assert not list(Path("out").rglob("*.json"))
    assert cli("sweep", "demo", *tiny_run, "paths.results=out")[0] == 0
    code, out, err = cli("plan", "demo", *tiny_run, "paths.results=out")
    assert code == 0, err
    assert "in all: all 7 jobs are recorded, nothing is to be done" in out


def test_plan_of_gated_models_needs_no_network(cli) -> None:
    code, out, err = cli("plan", "nm_patterns", "model=llama2_7b")
    assert code == 0, err
    assert "4 left out, 0 recorded already, 17 to run" in out
    assert "2 left out: method.pattern: 256:512 needs input widths that 512 divides, but mlp.down_proj has 11008" in out
    assert "to download: model llama2_7b (13 GB)" in out


def test_plan_of_what_does_not_exist_says_what_does(cli) -> None:
    code, out, err = cli("plan", "pruning_tabel")
    assert (code, out) == (2, "")
    assert err.startswith("error: sweep pruning_tabel: no such sweep; there are: ablation_normalisation, baselines, ")
    assert err.endswith("did you mean pruning_table?\n")


def test_a_sweep_with_a_failed_job_lists_it_and_exits_with_one(
    cli, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nowag_exp.errors import NowagError
    from nowag_exp.methods import Wanda

    def fail(*args: object) -> None:
        raise NowagError("model.layers.0.x: is not to be had")

    monkeypatch.setattr(Wanda, "score", fail)
    code, out, err = cli("sweep", "demo", *tiny_run)
    assert code == 1
    assert "(5 of this sweep)" in out
    assert err.count("failed: tiny wanda") == 2
    for path in Path("results/tables").iterdir():
        said = path.read_text().splitlines()[-1].endswith("failed, so not in this table: 2 of 7")
        assert said == (path.suffix != ".csv"), path
    assert "model.layers.0.x: is not to be had (traceback in results/logs/" in err
    assert "Traceback" not in err


def test_a_failed_run_exits_with_one_and_keeps_its_traceback_in_the_log(
    cli, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nowag_exp.methods import NoWagP

    def fail(*args: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(NoWagP, "score", fail)
    code, out, err = cli("run", *tiny_run)
    assert code == 1
    assert out == ""
    (line,) = err.strip().splitlines()
    assert line.startswith("error: tiny nowag_p 50%: model.layers.0.self_attn.q_proj and ")
    assert ": ZeroDivisionError: division by zero (traceback in results/logs/" in line
    assert "Traceback" in Path(line.split("traceback in ")[1].rstrip(")")).read_text()


def test_multirun_runs_each_and_one_failure_shows_in_the_exit_code(
    cli, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nowag_exp.methods import Wanda

    monkeypatch.setattr(Wanda, "score", lambda *args: 1 / 0)
    code, out, err = cli("run", "--multirun", *tiny_run, "method=dense,wanda,nowag_p")
    assert code == 1
    assert "\ndense" in out
    assert "\nnowag_p" in out
    assert "ZeroDivisionError" in err
    assert len(list(Path("results/runs").glob("*.json"))) == 2


def test_a_multirun_takes_keys_that_only_the_chosen_options_have(cli, tiny_run: list[str]) -> None:
    code, _, err = cli("run", "--multirun", *tiny_run, "method=rtn,gptq", "method.bits=3")
    assert code == 0, err
    records = [json.loads(path.read_text()) for path in Path("results/runs").glob("*.json")]
    assert sorted((record["labels"]["method"], record["config"]["method"]["bits"]) for record in records) == [
        ("gptq", 3),
        ("rtn", 3),
    ]


def test_a_multirun_with_one_job_that_lacks_a_key_starts_none_and_lists_what_that_job_has(
    cli, tiny_run: list[str]
) -> None:
    code, _, err = cli("run", "--multirun", *tiny_run, "method=rtn,wanda", "method.bits=3")
    assert code == 2
    assert "method.bits: " in err
    assert "method=wanda" in err
    assert "pattern" in err.split("there are: ")[1]
    assert not Path("results/runs").exists()
    assert not Path("results/store").exists()


def test_a_multirun_axis_is_itself_a_key_of_the_chosen_option_and_no_list_of_keys_is_empty(
    cli, workplace: Path
) -> None:
    code, _, err = cli("run", "--multirun", "calibration=files,wiki_sample", "method.nothing=1,2", "seed=0")
    assert code == 2
    assert "method.nothing: " in err
    assert not err.rstrip().endswith("there are:")


def test_output_that_the_terminal_cannot_encode_is_degraded_and_fails_nothing(
    workplace: Path, tiny_run: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nowag_exp", "run", *tiny_run, "method=dense"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"?" in done.stdout
    assert b"record: results/runs/" in done.stdout


def test_table_reads_records_alone(cli, tiny_run: list[str], workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("run", *tiny_run, "paths.results=out")[0] == 0
    (workplace / "cal.txt").unlink()
    monkeypatch.setenv("NOWAG_EXP_CACHE", str(workplace / "nothing here"))
    code, out, _ = cli("table", "paths.results=out", "--format", "csv")
    assert code == 0
    assert out.splitlines()[0].startswith("model,method,settings,sparsity,bits_per_weight")
    assert len(out.splitlines()) == 1 + 3  # perplexity, KL, top-1 agreement
    code, out, _ = cli("table", "--format", "md", "--out", "paper", "paths.results=out")
    assert (code, out) == (0, "wrote paper/table.md\n")
    assert "| nowag_p" in Path("paper/table.md").read_text()
    code, _, err = cli("table", "--out", "eval.txt", "paths.results=out")
    assert (code, err.split(" (")[0]) == (2, "error: eval.txt/table.txt: cannot be written")


def test_a_saved_checkpoint_is_named_and_can_be_exported(cli, tiny_run: list[str]) -> None:
    code, out, err = cli("run", *tiny_run, "checkpoint.save=true", "method=nowag_vq", "method.d=4", "method.bits=1")
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("checkpoint: ")]
    folder = Path(line.removeprefix("checkpoint: ").split(" (")[0])
    assert (folder / "model.safetensors").is_file()
    code, out, err = cli("export", str(folder), "--to", "dense")
    assert code == 0, err
    assert "all 14 compressed linears are equal bit for bit" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "evaluation.n_windows=4"], "error: evaluation.n_windows: unknown key; write evaluation.wiki_sample."),
        (["run", "model=org/llama2_7b"], "error: model=org/llama2_7b: no such option; for a model in a folder: "),
        (["run", "method={bits:3}"], "error: method: is a group, of which method=NAME chooses an option"),
        (["run", "seed=abc"], "error: seed: must be an integer; got 'abc'"),
        (
            ["run", "seeds=0,1"],
            "error: seeds=0,1: several values; one experiment each: nowag-exp run --multirun seed=0,1",
        ),
        (["run", "model=local", "model.path=1e5"], "error: model.path: input should be a valid string; got 100000.0"),
        (["run", "modle=tiny"], "error: modle: no such config group or key; there are: calibration,"),
        (["run", "model=tinny"], "error: model=tinny: no such option; there are: llama2_13b,"),
        (["run", "evaluation=[wikitext3]"], "error: evaluation=wikitext3: no such option; there are: c4_joined,"),
        (
            ["run", "evaluation=paper_zero_shot", "evaluation.paper_zero_shot.tasks=[gsm8k]"],
            "error: evaluation.paper_zero_shot.tasks: gsm8k: its output_type is generate_until, but only",
        ),
        (["compare", "abc", "def"], "error: abc: no record in results/runs; give a fingerprint"),
        (
            ["run", "model=tiny", "method.sparsty=1"],
            "error: method.sparsty: unknown key; there are: name, normalise, pattern",
        ),
        (["run", "model=tiny", "method.sparsity=1"], "error: method.sparsity: must be in [0, 1)"),
        (["run", "model=tiny", "calibration=files"], "error: calibration.path: is not set; add calibration.path=VALUE"),
        (["run", "model=tiny,local"], "error: model=tiny,local: several values; one experiment each: "),
        (["run", "model"], "error: model: is not KEY=VALUE in Hydra's override grammar"),
        (["run", "model=local", "model.path=none"], "error: none: no such folder; give one in Hugging Face layout"),
        (["run", "calibration=files", "calibration.path=."], "error: calibration.path=.: is a folder; name the files"),
        (["run", "calibration=files", "calibration.path=no.txt"], "error: calibration.path=no.txt: no such file"),
        (
            ["run", "model=tiny", "method=nowag_vq"],
            "error: method.bits: d=6 and bits=2 make 4096 codewords, but self_attn.k_proj has only 352 subvectors of 6",
        ),
        (
            ["run", "model=tiny", "method=nowag_vq", "method.d=3", "method.bits=1.5"],
            "error: method.bits: d * bits must be",
        ),
        (
            ["run", "model=tiny", "method=gptq", "method.group_size=48"],
            "error: method.group_size: 48 does not divide the 64 inputs of self_attn.q_proj",
        ),
        (["run", "model=tiny", "method=rtn", "method.bits=9"], "error: method.bits: must be from 2 to 8; got 9"),
        (
            ["run", "model=tiny", "method=gptq", "method.act_order=true"],
            "error: method.act_order: with groups it needs",
        ),
        (["export", "eval.txt", "--to", "dense"], "error: eval.txt"),
        (["sweep", "nope"], "error: sweep nope: no such sweep; there are: ablation_normalisation, "),
        (["sweep", "demo", "model"], "error: model: is not KEY=VALUE; an override looks like model=tiny"),
        (["sweep", "demo", "model=tinny"], "error: model=tinny: no such option"),
        (["table", "model=tiny"], "error: model=tiny: this verb takes no override but paths.results=DIR"),
        (["table", "--format", "xml"], "nowag-exp table: argument --format: invalid choice: 'xml'"),
        (
            ["run", "calibration=files", "calibration.path=käl.txt"],
            "error: calibration.path=käl.txt: is not KEY=VALUE in",
        ),
        (
            ["run", "model=tiny", "method.foo.bar=1"],
            "error: method.foo.bar: unknown key; there are: name, normalise, pattern",
        ),
        (["run", "model=tiny", "paths.results=cal.txt"], "error: "),
        (
            ["table", "--out", "paper"],
            "error: results: holds no records, so nothing was written; set paths.results=DIR",
        ),
        (["fetch", "model=tiny"], "error: model=tiny: fetch takes names, so write: nowag-exp fetch tiny"),
        (["export", "x" * 300, "--to", "dense"], f"error: {'x' * 300}/manifest.json: File name too long; choose a"),
        (["compare", "x" * 300 + ".json", "y"], f"error: {'x' * 300}.json: File name too long; choose a shorter one"),
        (["fetch", "nope"], "error: fetch nope: no such model, calibration or evaluation; there are:"),
        (["frob"], "nowag-exp: argument VERB: invalid choice: 'frob'"),
    ],
)
def test_a_bad_request_exits_with_two_and_one_line(cli, workplace: Path, arguments: list[str], message: str) -> None:
    code, out, err = cli(*arguments)
    assert code == 2
    assert out == ""
    (line,) = err.strip().splitlines()
    assert line.startswith(message)
    assert not list(workplace.glob("results/*"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--cfg", "job"], ["pattern: '1:4'", "_target_: nowag_exp.models.TinyModel"]),
        (["--info", "defaults"], ["model/tiny"]),
    ],
)
def test_hydras_own_flags_work(flags: list[str], expected: list[str]) -> None:
    # In a process of its own: --info changes the logging of the whole process.
    command = [sys.executable, "-m", "nowag_exp", "run", *flags, "model=tiny", "method.pattern=1:4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(words in done.stdout for words in expected)


def test_interrupting_says_how_to_go_on(cli, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from nowag_exp.methods import NoWagP

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(NoWagP, "score", interrupt)
    code, _, err = cli("run", *tiny_run)
    assert code == 130
    assert err.strip() == "interrupted; the same command goes on where this stopped"
    assert not list(Path("results/runs").glob("*.json"))


def test_interrupting_a_multirun_stops_all_of_it(cli, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from nowag_exp.methods import Magnitude

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Magnitude, "score", interrupt)
    code, out, err = cli("run", "--multirun", *tiny_run, "method=magnitude,dense")
    assert (code, out) == (130, "")
    assert err.strip() == "interrupted; the same command goes on where this stopped"


@pytest.fixture
def python_hears_ctrl_c() -> Iterator[None]:
    """As in a process of one's own: what other tests started (Ray) may have a handler of its own."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before or signal.default_int_handler)


@pytest.mark.usefixtures("python_hears_ctrl_c")
@pytest.mark.parametrize("verb", [["run"], ["sweep", "demo"]])
def test_ctrl_c_that_a_library_turned_into_an_error_is_an_interruption(
    cli, verb: list[str], tiny_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compose_like_omegaconf(*args: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        finally:
            raise AttributeError("'NoneType' object has no attribute '_invalidate_flags_cache'")

    for user in ("nowag_exp.config.build_experiment", "nowag_exp.sweep.build_experiment"):
        monkeypatch.setattr(user, compose_like_omegaconf)
    code, out, err = cli(*verb, *tiny_run)
    assert (code, out) == (130, "")
    assert err.strip() == "interrupted; the same command goes on where this stopped"
    # A command after it, where Ctrl-C is somebody else's (of a job in the background nobody's), fails by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    monkeypatch.setattr("nowag_exp.config.build_experiment", lambda *args: 1 / 0)
    monkeypatch.setattr("nowag_exp.sweep.build_experiment", lambda *args: 1 / 0)
    code, _, err = cli(*verb, *tiny_run)
    assert code == 1
    assert "ZeroDivisionError" in err


def test_an_error_without_a_name_is_one_line_and_a_log(
    cli, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nowag_exp.models import TinyModel

    monkeypatch.setattr(TinyModel, "check", lambda self: 1 / 0)
    code, out, err = cli("run", *tiny_run)
    assert (code, out) == (1, "")
    (line,) = err.strip().splitlines()
    assert line.startswith("error: unexpected ZeroDivisionError: division by zero (traceback in ")
    log = Path(line.split("traceback in ")[1].rstrip(")"))
    assert "Traceback" in log.read_text()
    log.unlink()


def test_a_file_where_the_logs_go_is_named(cli, tiny_run: list[str]) -> None:
    Path("results").mkdir()
    Path("results/logs").touch()
    code, _, err = cli("run", *tiny_run, "method=magnitude")
    assert code == 2
    assert err == (
        "error: results/logs: cannot be written to (it is no folder); move it away, or set paths.results=DIR\n"
    )


def test_a_damaged_record_is_named(cli, tiny_run: list[str]) -> None:
    assert cli("run", *tiny_run)[0] == 0
    (record,) = Path("results/runs").glob("*.json")
    record.write_text(record.read_text()[:100])
    for arguments in (["table"], ["run", *tiny_run]):
        code, _, err = cli(*arguments)
        assert code == 2
        assert err.startswith(f"error: {record}: is damaged")
        assert err.strip().endswith("remove it and run its experiment again")


@pytest.mark.parametrize(("argument", "size"), [("table", 10), ("table", 100_000), ("--help", 10)])
def test_output_that_nobody_reads_ends_the_command_quietly(
    cli, monkeypatch: pytest.MonkeyPatch, argument: str, size: int
) -> None:
    monkeypatch.setattr(wide, "render", lambda *_: "x" * size)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stdout)
        code, _, err = cli(argument)
    assert (code, err) == (141, "")


def test_a_broken_pipe_that_is_not_the_outputs_is_reported(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise BrokenPipeError("worker")

    monkeypatch.setattr(wide, "render", fail)
    code, _, err = cli("table")
    assert code == 1
    assert err.startswith("error: unexpected BrokenPipeError: worker")


@pytest.mark.parametrize(
    ("path", "flags", "reason"),
    [
        ("eval.txt", os.O_RDONLY, "Bad file descriptor"),
        # A device that is always full is Linux's; the same write fails everywhere in the case above.
        pytest.param(
            "/dev/full",
            os.O_WRONLY,
            "No space left on device",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full"),
        ),
    ],
)
def test_output_that_cannot_be_written_is_a_sentence(
    cli, workplace: Path, monkeypatch: pytest.MonkeyPatch, path: str, flags: int, reason: str
) -> None:
    with os.fdopen(os.open(path, flags), "w") as stdout, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stdout)
        code, _, err = cli("table")
    assert (code, err) == (1, f"error: stdout: cannot be written ({reason}); send it elsewhere\n")


def test_the_module_is_the_command(workplace: Path, tiny_run: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nowag_exp", "run", *tiny_run, "method=dense"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "record: results/runs/" in done.stdout
    assert done.stderr == "", "nothing but the table, when stderr is no terminal"


def test_fetch_names_what_it_brought(cli) -> None:
    code, out, _ = cli("fetch", "tiny")
    assert code == 0
    assert Path(out.strip().removeprefix("model tiny: "), "model.safetensors").is_file()
    code, out, _ = cli("fetch", "files", "calibration.path=cal.txt", "evaluation.files.path=*.txt", "paths.results=out")
    assert (code, out) == (0, "calibration: 1 documents\nevaluation.files: 2 documents\n")

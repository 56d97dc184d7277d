"""Secrets of the environment reach nothing that is kept or shown; and nothing in the source runs what it reads."""

import ast
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import nowag_exp
from nowag_exp import runner
from nowag_exp.cli import main
from nowag_exp.errors import RequestError

SECRETS = {
    "HF_TOKEN": "hf_PLANTEDplantedPLANTED1",
    "HUGGING_FACE_HUB_TOKEN": "hf_PLANTEDplantedPLANTED2",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdefPLANTED3",
    "AWS_SECRET_ACCESS_KEY": "PLANTED4/secret",
    "SSH_PASSWORD": "PLANTED5 with spaces",
}


def test_planted_secrets_are_found_nowhere(workplace: Path, tiny_run: list[str]) -> None:
    environment = {**os.environ, **SECRETS, "WANDB_MODE": "offline"}

    def run(code: int, *arguments: str) -> str:
        command = [sys.executable, "-m", "nowag_exp", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    said = run(0, "run", *tiny_run, "method=magnitude", "tracking=wandb", "checkpoint.save=true")
    # Not positive definite: the job fails, and its log has the traceback.
    few = ["calibration.n_sequences=1", "calibration.context_length=16"]
    said += run(1, "run", *tiny_run, *few, "method=gptq", "method.dampening=0")
    said += run(2, "run", *tiny_run, "method=magnitude", "method.name=${oc.env:HF_TOKEN}")
    said += run(0, "table") + run(0, "report")
    kept = {path.suffix for path in workplace.rglob("*") if path.is_file()}
    assert kept >= {".json", ".log", ".safetensors", ".html", ".wandb"}
    for name, secret in SECRETS.items():
        assert secret not in said, name
        for path in [*workplace.rglob("*")]:
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), (name, path)


PLANTED_URL = "http://user:PLANTED6@mirror.example:8080/api?a=b@c"


def test_the_password_in_a_url_that_a_library_repeats_is_found_nowhere(
    workplace: Path, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(raised: type[Exception], *_: object) -> None:
        try:
            raise RuntimeError(f"418 for {PLANTED_URL}")
        except RuntimeError as error:
            raise raised(f"cannot be had ({error})") from error

    # In a job, and before there is one; each for a reason that we can name, and for one that we cannot.
    monkeypatch.setattr(tempfile, "tempdir", str(workplace))
    for module, name in ((runner.one, "run"), (runner.one, "recorded")):
        for raised in (RequestError, ValueError):
            with monkeypatch.context() as patched:
                patched.setattr(module, name, functools.partial(fail, raised))
                assert main(["run", *tiny_run, "method=magnitude"]) != 0
            said = capfd.readouterr().err
            assert "418 for http://mirror.example:8080/api?a=b@c" in said
            assert "PLANTED6" not in said
    logs = [path.read_text() for path in workplace.rglob("*.log")]
    assert any("Traceback" in log and "http://mirror.example" in log for log in logs)
    assert not any("PLANTED6" in log for log in logs)


PACKAGE = Path(nowag_exp.__file__).parent
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "load_module"}
FORBIDDEN_IMPORTS = {"pickle", "dill", "shelve", "marshal", "cloudpickle", "joblib"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_that_is_read_is_run(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            of_module = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            owner = node.func.value.id if of_module else ""  # type: ignore[attr-defined,union-attr]
            called = node.func.attr if of_module else name  # type: ignore[union-attr]
            assert not (called in FORBIDDEN_CALLS and owner in ("", "os", "builtins", "importlib")), called
            assert (owner, called) != ("torch", "load")
            for keyword in node.keywords:
                if keyword.arg in ("shell", "trust_remote_code"):
                    assert isinstance(keyword.value, ast.Constant)
                    assert keyword.value.value is False, keyword.arg
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in ("shell", "trust_remote_code"):
                    assert isinstance(value, ast.Constant)
                    assert value.value is False, key.value
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "torch", "builtins"):
            assert not {alias.name for alias in node.names} & {*FORBIDDEN_CALLS, "load"}
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not FORBIDDEN_IMPORTS & {name.partition(".")[0] for name in names}

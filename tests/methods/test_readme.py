"""The method that nowag_exp/methods/README.md adds in four steps is really one."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

import nowag_exp.methods
from nowag_exp.compose import sparsity_of
from nowag_exp.config import build
from nowag_exp.ledger import Ledger
from nowag_exp.methods import Method

README = Path(nowag_exp.methods.__file__).with_name("README.md").read_text(encoding="utf-8")


def code(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    return re.sub(r"(?m)^   ", "", block)


def test_the_documented_method_works_from_its_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("nowag_exp.methods.relative_magnitude")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code("python"), module.__dict__)
    monkeypatch.setattr(nowag_exp.methods, "RelativeMagnitude", module.RelativeMagnitude, raising=False)
    node = yaml.safe_load(code("yaml"))
    node |= {"sparsity": sparsity_of(node["pattern"], 0.5)}
    method = build(node, "method", Method)
    # |W| / row norm: 0.6, 0.8 and 0.28, 0.96, so the second of each row stays; plain magnitude keeps the first row.
    weight = torch.tensor([[30.0, 40.0], [0.28, 0.96]])
    compressed = method.compress({"w": weight}, None, Ledger())["w"]
    assert compressed.decompress().tolist() == [[0.0, 40.0], [0.0, pytest.approx(0.96, rel=1e-3)]]
    assert method.identity()["power"] == 1.0

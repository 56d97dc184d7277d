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
    module = ModuleType("nowag_exp.methods.random_pruning")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code("python"), module.__dict__)
    monkeypatch.setattr(nowag_exp.methods, "RandomPruning", module.RandomPruning, raising=False)
    node = yaml.safe_load(code("yaml"))
    node |= {"sparsity": sparsity_of(node["pattern"], 0.5), "seed": 3}
    method = build(node, "method", Method)
    compressed = method.compress({"w": torch.ones(8, 8)}, None, Ledger())["w"]
    assert compressed.n_nonzero == 32
    assert torch.equal(
        compressed.decompress(), method.compress({"w": torch.ones(8, 8)}, None, Ledger())["w"].decompress()
    )
    assert method.identity()["seed"] == 3

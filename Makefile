# Every target sets itself up; nothing but Python >= 3.11 is needed. PYTHON=python3.12 chooses another one.
PYTHON ?= python3
BIN := .venv/bin
# A machine with an NVIDIA driver takes PyPI's torch (the CUDA build), any other one the CPU build.
# To choose another CUDA: make demo TORCH_INDEX=https://download.pytorch.org/whl/cu130
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi),,https://download.pytorch.org/whl/cpu)

.PHONY: demo test test-faults test-slow check claims bench bench-full bench-llmcompressor clean
.DELETE_ON_ERROR:

demo: .venv/ready
	$(BIN)/nowag-exp sweep demo

# A process a core, but at most 4: each takes up to 2 GB. Whoever has none left takes tests of another.
test: check
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

# The short form, which is part of `test`, and all the other moments; prints a table.
test-faults: .venv/dev
	$(BIN)/python -m pytest -m 'faults or not faults' --numprocesses logical --maxprocesses 4 --dist worksteal tests/faults

test-slow: .venv/dev
	$(BIN)/python -m pytest -m slow

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

claims: .venv/dev
	$(BIN)/python -m pytest -m claims tests/test_claims.py

bench: .venv/ready
	$(BIN)/python -m benchmarks

bench-full: .venv/ready
	$(BIN)/python -m benchmarks --full

bench-llmcompressor: .venv/ready
	$(BIN)/python -m benchmarks llmcompressor

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nowag_exp needs Python >= 3.11; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --no-deps --retries 1 --constraint constraints.txt \
		--index-url $(TORCH_INDEX) torch || { echo "no torch from $(TORCH_INDEX); to take the one of pip's own index \
	(on Linux the CUDA build, several GB): make TORCH_INDEX= $(MAKECMDGOALS)"; exit 1; })
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch .venv/ready

.venv/dev: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/dev

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

# `make` does all that CI does.
PYTHON := .venv/bin/python

.PHONY: gpu-check all test lint types docs golden bench
all: test lint types docs

.venv/bin/ruff:
	python3 bootstrap.py test lint

test: .venv/bin/ruff
	$(PYTHON) -m pytest

lint: .venv/bin/ruff
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/bin/ruff
	.venv/bin/mypy

docs: .venv/bin/ruff
	$(PYTHON) docs/generate.py --check

golden: .venv/bin/ruff
	$(PYTHON) -m pytest tests/golden --update-golden
	$(PYTHON) docs/generate.py

bench: .venv/bin/ruff
	$(PYTHON) benchmarks/cold_start.py
	$(PYTHON) benchmarks/warm_plan.py
	$(PYTHON) benchmarks/walk.py
	$(PYTHON) benchmarks/start_up.py
	$(PYTHON) benchmarks/evidence.py
	$(PYTHON) benchmarks/gguf_sizes.py
	$(PYTHON) benchmarks/sweep.py
	$(PYTHON) benchmarks/simulate.py

# Needs a GPU and the extra [validate]; DEVICE=cpu takes one small model through the same code.
DEVICE := cuda
gpu-check: .venv/bin/ruff
	$(PYTHON) benchmarks/gpu_check.py --device $(DEVICE)

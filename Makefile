# `make demo` and `make test` make their own virtual environment, in .venv, and install what they need.
PYTHON ?= python3
BIN := .venv/bin
# Half of the tests' time is Python's: two at a time keep two cores busy. `make test WORKERS=` runs them one by one.
WORKERS ?= -n 2 --dist worksteal
CORE_TESTS := tests/margins tests/layers tests/losses tests/test_models.py tests/backbones \
	$(patsubst %,tests/training/test_%.py,checkpoints curves fine_tuning sanity schedules sgd steps)

# TensorFlow's greetings, warnings that concern nobody here included.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test lint clean

demo: .venv/demo
	$(BIN)/python examples/train_ms1m.py

test: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest $(WORKERS)
	KERAS_BACKEND=jax $(BIN)/python -m pytest $(WORKERS) $(CORE_TESTS)

lint: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python setup.cfg
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[demo]'
	touch $@

.venv/dev: .venv/bin/python setup.cfg
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	touch $@

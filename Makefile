# Everything that is needed is installed into .venv by the first command that needs it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-trainers reliability fuzz lint format docs bench clean

demo: $(VENV)/installed  ## a small data set, made on the spot, through everything
	$(BIN)/maskbeam demo

test: $(VENV)/installed  ## the tests, in under ten minutes
	$(BIN)/pytest -n 2 --dist worksteal

test-trainers: $(VENV)/installed  ## the trainers themselves, installed into .trainers: a quarter of an hour; writes docs/trainers.md
	$(BIN)/pytest tests/trainers

reliability: $(VENV)/installed  ## kills, full disks, faulty storage, adversarial loads; writes docs/reliability.md
	$(BIN)/pytest tests/reliability

fuzz: $(VENV)/installed  ## hypothesis at length, and atheris for FUZZ_SECONDS a target
	$(BIN)/pytest tests/fuzz

lint: $(VENV)/installed  ## ruff and mypy (strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/installed  ## writes the pages of docs/ that derive from the code
	$(BIN)/python -m beam_pipeline.reference

bench: $(VENV)/installed  ## the figures of docs/performance.md; takes some ten minutes
	$(BIN)/python benchmarks/bench.py --peer "$$($(BIN)/python tests/trainers/venvs.py object_detection)"

clean:
	rm -rf $(VENV) .trainers maskbeam-demo build dist *.egg-info

$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# Everything that is needed is installed into .venv by the first command that needs it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint format docs bench clean

demo: $(VENV)/installed  ## a small data set, made on the spot, through everything
	$(BIN)/maskbeam demo

test: $(VENV)/installed  ## the tests, in under ten minutes
	$(BIN)/pytest -n 2 --dist worksteal

lint: $(VENV)/installed  ## ruff and mypy (strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/installed  ## writes the pages of docs/ that derive from the code
	$(BIN)/python -m beam_pipeline.reference

bench: $(VENV)/installed benchmarks/.peer/installed  ## the figures of docs/performance.md; takes some ten minutes
	$(BIN)/python benchmarks/bench.py --peer benchmarks/.peer/bin/python

clean:
	rm -rf $(VENV) benchmarks/.peer maskbeam-demo build dist *.egg-info

$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# The Object Detection API, to be measured against; it and TensorFlow fight over protobuf and numpy, hence the order.
benchmarks/.peer/installed: benchmarks/peer.txt benchmarks/peer-no-deps.txt
	$(PYTHON) -m venv benchmarks/.peer
	benchmarks/.peer/bin/python -m pip install --quiet --upgrade pip "setuptools<81" wheel
	benchmarks/.peer/bin/python -m pip install --quiet --requirement benchmarks/peer.txt
	benchmarks/.peer/bin/python -m pip install --quiet --no-deps --requirement benchmarks/peer-no-deps.txt
	touch $@

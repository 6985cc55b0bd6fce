# Everything that is needed is installed into .venv by the first command that needs it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-cloud test-airflow test-engines test-tfdv test-browser test-trainers test-fuzz reliability fuzz lint format
.PHONY: docs site requirements data-sets clean
.PHONY: bench bench-parts bench-annotations bench-formats bench-latency bench-scaling bench-report

demo: $(VENV)/installed  ## a small data set, made on the spot, through everything
	$(BIN)/maskbeam demo

test: $(VENV)/installed  ## the tests, in under ten minutes
	$(BIN)/pytest -n 2 --dist worksteal

test-trainers: $(VENV)/installed  ## the trainers themselves, installed into .environments: a quarter of an hour; writes docs/trainers.md
	$(BIN)/pytest tests/trainers

test-browser: $(VENV)/installed  ## the report in Chromium, which root gets by apt-get; Playwright goes into .environments: three minutes; screenshots in build/
	$(BIN)/pytest tests/browser -rs

test-cloud: $(VENV)/installed  ## the flex template, Dataflow, S3 and Azure, against emulators
	$(BIN)/pytest tests/cloud -rs

test-airflow: $(VENV)/installed  ## the DAGs of deploy/airflow in a real Airflow, installed into .environments: four minutes
	$(BIN)/pytest tests/airflow -rs

test-engines: $(VENV)/installed  ## the same job on Flink, Spark and Prism, fetched into .environments: six minutes, and as much again at first
	$(BIN)/pytest tests/engines -rs

test-tfdv: $(VENV)/installed  ## statistics.pb beside TensorFlow Data Validation's own, installed into .environments: one minute
	$(BIN)/pytest tests/tfdv -rs

reliability: $(VENV)/installed  ## kills, full disks, faulty storage, adversarial loads; writes docs/reliability.md
	$(BIN)/pytest tests/reliability
	@cat docs/reliability.md

test-fuzz: $(VENV)/installed  ## 10,000 inputs for each parser, always the same, in under six minutes
	$(BIN)/pytest tests/fuzz -n 2

fuzz: FUZZ_EXAMPLES ?= 100000
fuzz: FUZZ_SECONDS ?= 60
fuzz: $(VENV)/installed  ## FUZZ_EXAMPLES inputs for each parser by hypothesis, at random, and FUZZ_SECONDS of libFuzzer on each
	$(BIN)/python -m pip install --quiet --editable '.[dev,fuzz]'
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_AT_RANDOM=1 $(BIN)/pytest tests/fuzz -n 2

lint: $(VENV)/installed  ## ruff and mypy (strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/installed  ## writes the files of docs/ and templates/ that derive from the code
	$(BIN)/python -m beam_pipeline.reference

site: $(VENV)/installed  ## the documentation as a site, in build/site, and what it must not be: incomplete, or in need of a network
	rm -rf build/pages && mkdir -p build/pages
	ln -s $(addprefix $(CURDIR)/,README.md CHANGELOG.md CONTRIBUTING.md docs deploy templates) build/pages
	python=$$($(BIN)/python tests/environments.py site) && NO_MKDOCS_2_WARNING=1 $$python -m mkdocs build
	$(BIN)/pytest tests/site
	@echo "build/site/index.html; to search in it: python3 -m http.server --directory build/site"

PIN := $(BIN)/uv pip compile --quiet --upgrade --no-emit-index-url --custom-compile-command 'make requirements' --python-version 3.11
requirements: $(VENV)/installed  ## pins anew what the image for Dataflow has, the tests' Airflow, and what makes the site
	$(PIN) --python-platform x86_64-manylinux_2_28 setup.py deploy/requirements.in --output-file deploy/requirements.txt
	$(PIN) --universal --no-annotate tests/requirements/airflow.in --output-file tests/requirements/airflow.txt
	$(PIN) --universal --no-annotate tests/requirements/site.in --output-file tests/requirements/site.txt

bench: $(VENV)/installed  ## the figures of docs/performance.md, beside other tools; takes hours: BENCH="--sets small" takes some 15 minutes
	$(BIN)/python benchmarks/bench.py $(BENCH)

bench-parts: $(VENV)/installed  ## each part of the work alone, beside the best library for it: two minutes
	@TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python benchmarks/parts.py

bench-formats: $(VENV)/installed  ## one data set in each format, beside COCO's: twenty minutes
	$(BIN)/python benchmarks/formats.py

bench-report: $(VENV)/installed  ## what the report costs a run of 15,000 images: six minutes
	$(BIN)/python benchmarks/report.py

data-sets: $(VENV)/installed  ## the real data sets, one command each; docs/data_sets.md has the numbers
	$(BIN)/pytest tests/test_data_sets.py -rs
	@cat docs/data_sets.md

bench-annotations: $(VENV)/installed  ## how fast 120 MB and 1.2 GB of annotations are read, and in how much memory: five minutes
	$(BIN)/python benchmarks/annotations.py

bench-latency: $(VENV)/installed  ## what a bucket that is 50 ms away costs, against a folder
	$(BIN)/python benchmarks/latency.py

bench-scaling: $(VENV)/installed  ## the figures of docs/scaling.md; takes some ten minutes and 26 GB of disk
	$(BIN)/python benchmarks/scaling.py

clean:
	rm -rf $(VENV) .environments maskbeam-demo build dist *.egg-info

$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

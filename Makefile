# `make study` and `make test` each stand alone: both make .venv and install what they need.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: study test test-lowest lint bench pictures docs clean

study: .venv/study
	$(BIN)/python run_study.py launch studies/quickstart.toml
	test -d exports/quickstart || $(BIN)/python run_study.py export quickstart
	$(BIN)/python run_study.py verify exports/quickstart
	@echo "The report: exports/quickstart/report.html; the dashboard: $(BIN)/python run_study.py dashboard quickstart"

test: .venv/test lint
	$(BIN)/python -m pytest -n 2

# The tests on the lowest versions that pyproject.toml allows of what the program runs on; these use
# of each other, and of what is newer, what has been deprecated since.
test-lowest: .venv-lowest/test
	.venv-lowest/bin/python -m pytest -n 2 -W ignore::DeprecationWarning

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/bench
	IMAGES='$(IMAGES)' $(BIN)/python -m benchmarks $(BENCH)

# The pictures of the documentation: figures, and what Chromium shows of the tutorial's search.
pictures: .venv/test
	$(BIN)/python -m docs.make_figures
	SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/display/dashboard/test_dashboard.py -k browser

# The site, in build/site: open index.html; no network is needed to read it.
docs: .venv/docs
	mkdir -p build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, but $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/study: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/test: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

.venv/bench: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,bench]'
	touch $@

.venv/docs: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

.venv-lowest/test: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -c 'import re, tomllib; print(*(f"{name}=={low}" for name, low in re.findall(r"([\w-]+)>=([\d.]+)", "\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]))), sep="\n")' > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-lowest/lowest.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-lowest build *.egg-info

# Two commands: `make run` and `make test`. Each makes its own environment in .venv first.
PYTHON ?= python3
PIP_ARGS ?=
NB ?=
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup run test reproduce claims figures bench check lint clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## make the environment (.venv), versions held by requirements.lock

$(READY): requirements.txt requirements-dev.txt requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c requirements.lock torch
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c requirements.lock -r requirements-dev.txt -e .
	touch $(READY)

run: $(READY) ## every notebook at the quick size, then the table of results (NB=03,04 for some)
	$(BIN)/python tools/notebooks.py run --size quick --only "$(NB)"; ran=$$?; \
	$(BIN)/python tools/results.py table --size quick && exit $$ran

test: $(READY) ## everything CI runs: lint, notebook gate, unit tests, all notebooks at the tiny size
	$(BIN)/ruff check .
	$(BIN)/ruff format --check lib tools tests
	$(BIN)/python tools/notebooks.py check
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests
	$(BIN)/python -m pytest -q -n 2 --nbmake --nbmake-timeout=300 notebooks

reproduce: $(READY) ## full size, resumable (NB=04 for one); keeps outputs, tables and figures
	$(BIN)/python tools/notebooks.py run --size full --only "$(NB)"
	$(BIN)/python tools/results.py claims

claims: $(READY) ## decide every claim from the committed results; refresh claims.csv and README
	$(BIN)/python tools/results.py claims

figures: $(READY) ## draw every figure again from the committed results
	$(BIN)/python tools/results.py figures --only "$(NB)"

bench: $(READY) ## time what the repository claims about speed, ratios in one run
	for script in tools/bench*.py; do $(BIN)/python $$script || exit 1; done

check: $(READY) ## the notebook gate alone
	$(BIN)/python tools/notebooks.py check

lint: $(READY) ## format and lint
	$(BIN)/ruff format lib tools tests
	$(BIN)/ruff check --fix .

clean: ## remove what small runs left; finished full runs and the environment stay
	rm -rf results/full results/quick results/tiny results/custom figures/quick figures/tiny figures/custom

# Two commands: `make run` and `make test`. Each makes its own environment in .venv first.
PYTHON ?= python3
PIP_ARGS ?=
NB ?=
SIZE ?=
VARIANTS ?=
SEEDS ?=
NAME ?=
STUDY ?=
COLAB_PYTHON ?=
TORCH ?=
EXACT ?=
RECORD ?=
BIN := .venv/bin
READY := .venv/.ready
PIP := pip>=25,<27

# What was typed is text, never a command: it is checked here, before any work, and handed on
# through the environment.
override NB := $(value NB)
override SIZE := $(value SIZE)
override VARIANTS := $(value VARIANTS)
override SEEDS := $(value SEEDS)
override COLAB_PYTHON := $(value COLAB_PYTHON)
override TORCH := $(value TORCH)
override EXACT := $(value EXACT)
override RECORD := $(value RECORD)
override NAME := $(value NAME)
override STUDY := $(value STUDY)
export NB SIZE VARIANTS SEEDS NAME STUDY COLAB_PYTHON TORCH EXACT PIP_ARGS
comma := ,
NUMBERS := $(sort $(foreach n,$(notdir $(wildcard notebooks/[0-9][0-9]_*.ipynb)),$(firstword $(subst _, ,$(n)))))
SHORT := $(patsubst 0%,%,$(NUMBERS))
SIZES := full large third tenth small quick tiny
ASKED := $(subst $(comma), ,$(NB))
BAD := $(filter-out $(NUMBERS) $(SHORT),$(ASKED))
ifneq ($(BAD),)
$(error NB names no notebook: allowed are $(NUMBERS), parted by commas, such as NB=03,04)
endif
ifneq ($(words $(NB)),$(if $(strip $(NB)),1,0))
$(error NB is a list parted by commas without blanks, such as NB=03,04)
endif
ifneq ($(strip $(NB)),$(if $(strip $(ASKED)),$(strip $(NB))))
$(error NB names no notebook: allowed are $(NUMBERS), parted by commas, such as NB=03,04)
endif
SIZES += $(if $(filter table,$(MAKECMDGOALS)),custom)
ifneq ($(filter-out $(SIZES),$(SIZE))$(word 2,$(SIZE)),)
$(error SIZE is none of the sizes: allowed are $(SIZES))
endif
ifneq ($(filter-out 1,$(RECORD)),)
$(error RECORD is neither 1 nor left out)
endif

# What a target does not take is refused, and not left out in silence.
TAKES_NB := run reproduce verify outstanding figures notebooks golden check
TAKES_SIZE := reproduce verify outstanding table
TAKES_SEEDS := outstanding
TAKES_VARIANTS := outstanding
TAKES_RECORD := verify
needless = $(if $(filter $(1)=%,$(MAKEOVERRIDES)),$(if $($(1)),$(filter-out $(TAKES_$(1)),$(MAKECMDGOALS))))
$(foreach v,NB SIZE SEEDS VARIANTS RECORD,$(if $(call needless,$(v)),$(error $(v) is not of $(call needless,$(v)): it is of $(TAKES_$(v)))))

.PHONY: help setup run test test-colab new-experiment reproduce verify outstanding table claims figures notebooks golden golden-defects check bench lint site site-test clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## make the environment (.venv), versions held by requirements.lock

$(READY): requirements.txt requirements-dev.txt requirements.lock requirements-torch.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -U "$(PIP)"
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) --no-deps -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -r requirements-torch.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) --no-deps -e .
	touch $(READY)

run: $(READY) ## every notebook at the quick size, then the table of results (NB=03,04 for some)
	@$(BIN)/python tools/notebooks.py run --size quick --only "$$NB" && $(BIN)/python tools/results.py table --size quick

test: $(READY) ## everything CI runs: lint, notebook gate, unit tests, all notebooks at the tiny size
	$(BIN)/ruff check .
	$(BIN)/ruff format --check lib tools tests
	$(BIN)/python tools/notebooks.py check
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -n 2 --dist loadfile tests
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -n 2 --nbmake --nbmake-timeout=300 notebooks

test-colab: ## the first cell, unit tests and 3 notebooks on the versions of Colab's image, in .venv-colab
	@$(PYTHON) tools/colab.py

new-experiment: $(READY) ## begin an experiment that runs at once (NAME=my_idea STUDY=character)
	@$(BIN)/python tools/new_experiment.py

reproduce: $(READY) ## train again at the full size, compare with the committed tables (NB=03 SIZE=full; resumable)
	@$(BIN)/python tools/notebooks.py run --size "$${SIZE:-full}" --only "$$NB" && $(BIN)/python tools/results.py verify --size "$$SIZE" --only "$$NB"

verify: $(READY) ## what was run here against the committed tables, line by line (NB=03 SIZE=full; RECORD=1 keeps it for the front page)
	@$(BIN)/python tools/results.py verify --size "$$SIZE" --only "$$NB" $(if $(RECORD),--record)

outstanding: $(READY) ## run what the committed tables lack and publish it as it ends (NB=14 SIZE=full VARIANTS=.. SEEDS=2,3)
	@$(BIN)/python tools/experiments.py run --recorded --publish --size "$${SIZE:-full}" --only "$$NB" --variants "$$VARIANTS" --seeds "$$SEEDS"

table: $(READY) ## every set of parameters that was run here, with its means
	@$(BIN)/python tools/results.py table --size "$$SIZE"

claims: $(READY) ## decide every claim from the committed results; refresh claims.csv and front pages
	@$(BIN)/python tools/results.py claims

figures: $(READY) ## draw every figure again from the committed results
	@$(BIN)/python tools/results.py figures --only "$$NB"

notebooks: $(READY) ## execute notebooks from committed rows and keep their outputs (NB=03)
	@$(BIN)/python tools/notebooks.py adopt --only "$$NB"

golden: $(READY) ## keep the golden numbers, after a VERSION was raised (NB=03)
	@$(BIN)/python tools/golden.py write --only "$$NB"

golden-defects: $(READY) ## seed defects into copies of the library and see golden numbers catch them
	@$(BIN)/python tools/golden_defects.py

check: $(READY) ## golden numbers and the notebook gate: did a number move, is a notebook stale
	@$(BIN)/python tools/golden.py check --only "$$NB"
	@$(BIN)/python tools/notebooks.py check --only "$$NB"

bench: $(READY) ## time what the repository claims about speed, ratios in one run
	for script in tools/bench*.py; do $(BIN)/python $$script || exit 1; done

lint: $(READY) ## format and lint
	$(BIN)/ruff format lib tools tests
	$(BIN)/ruff check --fix .

site: .venv/.site ## the web site from committed tables and executed notebooks, into site/index.html
	@OMP_NUM_THREADS=1 $(BIN)/python tools/site.py

site-test: site ## every page of the site in a headless Chromium: links, errors, narrow and dark
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m site tests/test_site.py

.venv/.site: $(READY) requirements-site.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) --no-deps -r requirements-site.txt
	touch $@

clean: ## remove what small runs left; full runs, their tables and the environment stay
	rm -rf build site results/notebooks/quick results/notebooks/tiny results/sets/*/quick-* results/sets/*/tiny-* results/sets/*/custom-*

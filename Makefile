# Everything happens in .venv; the first target that needs it makes it.
PYTHON ?= python3
BIN := .venv/bin
RECIPE ?= vae
ARGS ?=
ONLY ?=
QUICK ?=
comma := ,
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder  # a file stays together, as some share a trained run

.PHONY: train test test-full test-lowest lint docs setup notebooks benchmark reproduce clean

train: setup  ## train a recipe: make train RECIPE=autoencoder ARGS="--epochs 20"
	@$(BIN)/python train.py $(RECIPE) $(ARGS)

test: setup  ## all but the notebooks, which `make docs` runs; PYTHONDONTWRITEBYTECODE would have every process compile all files
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(PARALLEL) -m "not long" --ignore tests/test_notebooks.py

test-full: setup
	@$(BIN)/python -m pytest $(PARALLEL)

test-lowest:  ## the core of the suite on the lowest versions that pyproject.toml names, of Python 3.11 or 3.12, where the index has them
	$(PYTHON) -m venv .venv-lowest
	@$(PYTHON) -c 'import tomllib; file = open("pyproject.toml", "rb"); needs = tomllib.load(file)["project"]["dependencies"]; \
		print("\n".join(each.split(",")[0].replace(">=", "==") for each in needs))' > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet -r .venv-lowest/lowest.txt hypothesis pandas pytest 'pyparsing<3.3'
	@.venv-lowest/bin/python -m pytest -m "not long" tests/data tests/distributions tests/objectives tests/nn tests/reading

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

notebooks: setup  ## execute the notebooks in full, into notebooks/*.ipynb
	@for script in notebooks/*.py; do $(BIN)/jupytext --to ipynb --execute $$script || exit 1; done

docs: setup  ## run the notebooks' short forms and build the site into build/site; a broken link or a docstring that cannot be read is an error (--quiet would hide it)
	@$(BIN)/python -m pytest -m "not long" tests/test_notebooks.py
	@PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo build/site/index.html

benchmark: setup
	@$(BIN)/python benchmarks/peers.py && $(BIN)/python benchmarks/scaling.py && $(BIN)/python benchmarks/processes.py && $(BIN)/python benchmarks/start.py && $(BIN)/python benchmarks/missing.py && $(BIN)/python benchmarks/vat.py && $(BIN)/python benchmarks/likelihood.py

reproduce: setup  ## train what is behind benchmarks/RESULTS.md, and write it: make reproduce ONLY=vae,burda QUICK=1
	@$(BIN)/python benchmarks/reproduce.py $(if $(ONLY),--only $(subst $(comma), ,$(ONLY))) $(if $(QUICK),--quick)

setup: .venv/ready

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "pyro-stories needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv .venv-lowest

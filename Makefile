# make demo   draw, enlarge, edit and describe pictures with the models that ship with the project
# make test   the tests (a few minutes on two cores); make test-slow for the long ones
# make lint   ruff and mypy, which are also part of the tests
# make bench  the measurements
# make train  train the embedded models from nothing, in order, into out/trained (hours; if it stops, call it again)
# make test-checkpoints   pull what the graphs name and draw with it as diffusers does: several hundred gigabytes; GRAPHS="graphs/sd15.yaml graphs/sdxl.yaml" takes these alone
#
# Everything goes into .venv, made from constraints.txt by the first of these that you call.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOG := $(VENV)/install.log
READY := $(VENV)/.ready
WORKERS ?= 2
PIP_OPTIONS ?=
GRAPHS ?= $(shell grep -l "hf:" graphs/*.yaml)

# The tests start hundreds of processes; without kept byte code each would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow test-checkpoints test-gpu lint bench train clean

demo: $(READY)
	@$(BIN)/imagen-flow demo --out out

test: $(READY)
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

test-slow: $(READY)
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --run slow -m slow

# The lock that a pull writes lies beside the graphs, so these are copies. What cannot be had (a licence not accepted, no network) is said and skipped.
test-checkpoints: $(READY)
	@rm -rf $(VENV)/graphs && mkdir -p $(VENV)/graphs && cp -r graphs/. $(VENV)/graphs
	@cd $(VENV) && bin/imagen-flow models pull $(GRAPHS) || echo "some models were not pulled; the tests of their graphs are skipped"
	@$(BIN)/python -m pytest -q -rs --run checkpoint -m checkpoint

test-gpu: $(READY)
	@$(BIN)/python -m pytest -q -rs --run gpu -m gpu

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(READY)
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

TRAIN = $(BIN)/imagen-flow run --out out/trained graphs/training
TRAINED := --set imagen=./out/trained/imagen --set edit=./out/trained/edit

train: $(READY)
	@$(TRAIN)/imagen.yaml
	@$(TRAIN)/imagen_256.yaml
	@$(TRAIN)/edit.yaml
	@$(TRAIN)/captioner.yaml $(TRAINED)
	@$(TRAIN)/evaluate.yaml $(TRAINED) --set caption=./out/trained/caption

# pip says much that matters only when it fails.
$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (once; torch alone is some hundred megabytes) …"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "imagen_flow needs Python 3.11 or later; name one: make PYTHON=python3.12 …")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check $(PIP_OPTIONS) -c constraints.txt -e '.[dev]' > $(LOG) 2>&1 || { cat $(LOG); echo "the installation failed; its log is above and in $(LOG)"; exit 1; }
	@touch $@

clean:
	rm -rf $(VENV) out

# Every target needs .venv and makes it by itself. `make help` lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP     = $(VENV)/bin/python -m pip --disable-pip-version-check
TORCH  := 2.13.0
# Hundreds of processes start in the tests: none compiles what another has compiled.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-translation demo-masked explain explain-picture compare test test-slow test-all test-gpu faults null-studies large-corpus conformance check docs schema lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## the pinned packages and this project, in .venv

$(STAMP): requirements.lock pyproject.toml
	@for python in $(PYTHON) python3.13 python3.12 python3.11; do \
	    if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "setting up $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); \
	    fi; \
	done; \
	echo "Python 3.11 or newer with venv is needed; name one with: make setup PYTHON=/path/to/python3" >&2; exit 1
	$(PIP) install -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## train a small language model and a variant of it, compare them, continue a prompt
	$(BIN)/python -m blockformer.demo lm

demo-translation: $(STAMP) ## train the original encoder-decoder to translate English to German
	$(BIN)/python -m blockformer.demo translation

demo-masked: $(STAMP) ## train an encoder to fill in blanked characters
	$(BIN)/python -m blockformer.demo masked

explain: $(STAMP) ## train three small models in about a minute, and write a page for each that shows what it computes
	$(BIN)/python -m blockformer.demo explain

explain-picture: $(STAMP) ## draw docs/explain.png from the decoder that `make explain` has trained; needs chromium
	$(BIN)/python -m tests.explanation.picture

compare: $(STAMP) ## a quick study, from nothing to its report: a model with and without its feed-forward
	$(BIN)/blockformer compare studies/feedforward.yaml --tier quick

# Two processes: the tests use one thread each, and more processes need more memory than a small machine has.
test: $(STAMP) ## the tests, without the slow ones
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"

test-slow: $(STAMP) ## the slow tests alone
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m slow --durations=20

test-all: test test-slow ## all tests

test-gpu: $(STAMP) ## the tests that need a GPU; without one they are skipped
	$(BIN)/python -m pytest -q -n 4 --dist worksteal -m gpu -rs

faults: $(STAMP) ## 1,000 faults of each kind: damaged files, hostile files, killed runs; prints how each was answered
	FAULTS=1000 $(BIN)/python -m pytest -q -n 2 --dist worksteal tests/faults

null-studies: $(STAMP) ## train one model 40 times and count how often studies of it find a difference
	$(BIN)/python -m benchmarks.null_studies

large-corpus: $(STAMP) ## prepare a made corpus of 5 GB and train on it in 2 GB of memory
	$(BIN)/python -m benchmarks.large_corpus

conformance: $(STAMP) ## generate 2,000 recipes and check each; writes docs/matrix.md
	$(BIN)/blockformer conformance --count 2000 --out docs/matrix.json

check: $(STAMP) ## lint, format, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

docs: $(STAMP) ## build the site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

schema: $(STAMP) ## write the generated files anew: JSON Schemas, block reference, list of models
	$(BIN)/blockformer schema --out recipes/schema.json --studies studies/schema.json --reference docs/blocks
	$(BIN)/blockformer recipes --page docs/models.md

# In a venv of its own, so that nothing tried by hand gets in. Torch's own companions (CUDA, Triton) differ by machine and
# are pinned by torch itself; a local suffix such as +cpu names a file that other machines do not find.
lock: VENV := .venv-lock
lock: ## resolve pyproject.toml anew into requirements.lock
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet 'torch==$(TORCH)' '.[datasets,dev,docs,evaluation,hf,ray,reports,sentencepiece,slurm]'
	{ echo '# Everything that is installed with torch $(TORCH) and the extras datasets, dev, docs, evaluation, hf, ray, reports, sentencepiece and slurm, exactly.'; \
	  echo '# Made by `make lock`; installed by `make setup`. Not for editing by hand.'; \
	  $(PIP) freeze --all --exclude pip --exclude blockformer | sed -E '/^(nvidia|cuda|triton)/d; s/\+[[:alnum:].]+$$//'; \
	} > requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm -rf $(VENV)

clean: ## remove what the tools wrote, but neither .venv nor runs
	rm -rf build dist site .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

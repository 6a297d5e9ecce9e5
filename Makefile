# Tensorgate. `make` alone prints what there is.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# the first of these that is 3.11 or newer makes the venv; PYTHON=/path/to/python3 names another
PYTHONS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-color --quiet
RUN_STAMP := $(VENV)/.run-stamp
DEV_STAMP := $(VENV)/.dev-stamp
# pytest's own arguments, for example: make test ARGS='-k minute -x'
ARGS ?=

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  run takes UPSTREAM=host:port PORT=8080 ADMIN_PORT=8081 STATE=.tensorgate WORKERS=1 LISTEN=127.0.0.1'

.PHONY: run
run: $(RUN_STAMP) ## set up and start the whole stack; without UPSTREAM=host:port before a demo server
	@exec $(BIN)/tensorgate up \
		$${UPSTREAM:+--upstream "$$UPSTREAM"} $${PORT:+--port "$$PORT"} \
		$${ADMIN_PORT:+--admin-port "$$ADMIN_PORT"} $${STATE:+--state "$$STATE"} \
		$${WORKERS:+--workers "$$WORKERS"} $${LISTEN:+--listen "$$LISTEN"}

.PHONY: test
test: $(DEV_STAMP) ## set up and run all tests; they find ports and a state of their own
	@$(BIN)/python -m pytest -m 'not soak and not fuzz' -n 3 --dist loadfile \
		--no-loadscope-reorder $(ARGS)

.PHONY: check
check: lint types arrows proto-current test fuzz ## what CI runs: lint, types, arrows, protos, tests, fuzz

.PHONY: fuzz
fuzz: $(DEV_STAMP) ## hostile requests for a minute, against all that reads one
	@$(BIN)/python -m pytest -m fuzz -s tests/load/test_fuzz.py $(ARGS)

.PHONY: quick
quick: $(DEV_STAMP) ## only the pure tests, in seconds
	@$(BIN)/python -m pytest -m 'not soak' tests/unit $(ARGS)

.PHONY: lint
lint: $(DEV_STAMP) ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: types
types: $(DEV_STAMP) ## mypy, strict
	@$(BIN)/mypy

.PHONY: arrows
arrows: $(DEV_STAMP) ## import-linter: which room may import which
	@$(BIN)/lint-imports --no-cache

.PHONY: soak
soak: $(DEV_STAMP) ## the proofs at full size, with their figures; minutes
	@$(BIN)/python -m pytest -m soak -s $(ARGS)

.PHONY: bench
bench: $(DEV_STAMP) ## what a check costs: ratios within one run
	@$(BIN)/python tests/load/bench.py $(ARGS)

.PHONY: proto
proto: $(DEV_STAMP) ## generate authz/pb from proto/
	@$(BIN)/python proto/generate.py

.PHONY: proto-current
proto-current: $(DEV_STAMP)
	@$(BIN)/python proto/generate.py --check

.PHONY: manifests
manifests: $(DEV_STAMP) ## render what is made in deploy/: ConfigMaps, rules, dashboard
	@$(BIN)/python deploy/kubernetes/render.py
	@$(BIN)/python deploy/grafana/render.py

# A throwaway venv for uv: it is needed for nothing else. `--universal` locks for every platform
# and every Python from 3.11 on; hashes are of the files themselves, wherever they come from.
COMPILE = "$$uv/bin/uv" pip compile --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --quiet

.PHONY: lock
lock: ## resolve the dependencies anew into the three locks (LOCK='--upgrade' for newer ones)
	@$(FIND_PYTHON); uv=$$(mktemp -d); trap 'rm -rf "$$uv"' EXIT; \
	"$$found" -m venv "$$uv"; "$$uv/bin/python" -m pip --disable-pip-version-check --quiet install uv; \
	$(COMPILE) $(LOCK) pyproject.toml --extra tracing --group build -o deploy/container/requirements.lock; \
	$(COMPILE) $(LOCK) pyproject.toml --extra up --group build -o requirements.lock; \
	$(COMPILE) $(LOCK) pyproject.toml --extra up --group build --group dev -o requirements-dev.lock

.PHONY: clean
clean: ## remove the venv and all caches; the state stays
	@rm -rf $(VENV) .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One venv, two stamps: it is touched only when a lock or pyproject.toml changed.

define FIND_PYTHON
found=; for each in $(PYTHONS); do \
	if "$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then found=$$each; break; fi; \
done; \
if [ -z "$$found" ]; then \
	echo "Tensorgate needs Python 3.11 or newer, and none of these is: $(PYTHONS). Install one, or name one: make PYTHON=/path/to/python3" >&2; exit 1; \
elif ! "$$found" -c 'import venv, ensurepip' 2>/dev/null; then \
	echo "$$found cannot make virtual environments. Install its venv module (on Debian and Ubuntu: apt-get install python3-venv)." >&2; exit 1; \
fi
endef

$(BIN)/python:
	@$(FIND_PYTHON); \
	echo "making $(VENV) with $$("$$found" -V)"; \
	"$$found" -m venv --clear $(VENV)

# $(call install,LOCK): what the lock names, by hash, then this project itself, editable.
define install
@echo "installing $(1) (once; again when it changes)"
@$(PIP) install --require-hashes --only-binary :all: -r $(1)
@$(PIP) install --no-deps --no-build-isolation --no-index -e .
@touch $@
endef

$(RUN_STAMP): requirements.lock pyproject.toml | $(BIN)/python
	$(call install,requirements.lock)

$(DEV_STAMP): requirements-dev.lock requirements.lock pyproject.toml | $(BIN)/python
	$(call install,requirements-dev.lock)
	@touch $(RUN_STAMP)  # the runtime lock is a part of it

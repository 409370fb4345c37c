# Every target needs Python 3.11 or newer, git and make. Everything else (uv, Copier, test tools) is
# installed into .venv from constraints.txt, with hashes.

.DEFAULT_GOAL := help
.PHONY: help demo test combinations targets updates services live fire lint pythons everything constraints costs pictures rows tables release clean

PYTHON ?= python3
BIN := .venv/bin
DEMO := build/demo
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Generated services resolve to the packages of this day, so that tests are reproducible.
# `make constraints` moves it; UV_EXCLUDE_NEWER=2099-01-01T00:00:00Z uses the newest packages.
export UV_EXCLUDE_NEWER ?= 2026-11-21T00:00:00Z

# Tests start many processes, each of which would compile all modules.
unexport PYTHONDONTWRITEBYTECODE

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

demo: .venv/complete ## Render the default service, and serve it: Postgres, Valkey, a worker (PORT=8000)
	rm -rf $(DEMO)
	copier copy --trust --defaults --quiet --vcs-ref HEAD . $(DEMO)
	@echo "Rendered to $(DEMO). Its dependencies come next; the first time takes a minute."
	cd $(DEMO) && uv sync --quiet && exec uv run app dev $(if $(PORT),--port $(PORT))

test: .venv/complete ## The rules, the renders, the prompts; then the default service's own tests
	pytest -n 2 --dist worksteal -m "not besides" tests/rules tests/renders tests/prompts
	pytest -s -m "not besides and not system" tests/suites -k standard

combinations: .venv/complete ## Render, lint and type-check every pair of answers, and each queue x auth x deploy
	pytest -n 2 --dist worksteal -m besides tests/renders

targets: .venv/complete ## Validate the files of deploy targets and CI providers
	pytest -n 2 -rfEs tests/ci tests/clouds tests/kubernetes tests/alerts

updates: .venv/complete ## Update services: from past versions, with edits, through every answer (FULL=1: all pairs)
	FULL=$(FULL) pytest -n 2 --dist loadgroup tests/updates # one by one: the walks at the same time

services: .venv/complete ## Install services that have every answer, and run their own tests
	pytest -s -rfEs -m "not besides" tests/suites -k "not (fast and standard)"

live: .venv/complete ## Containers, processes and signals
	env -u UV_EXCLUDE_NEWER pytest -v -rfEs tests/live # the day would be in uv.lock, and not in the image

fire: .venv/complete ## Failures of processes, Postgres, Redis and networks (FULL=1: at full size)
	FULL=$(FULL) pytest -v -rfEs $(if $(FULL),-s,-n 2 --maxschedchunk 1) tests/fire

lint: .venv/complete ## Ruff and mypy on the generator itself
	ruff check
	ruff format --check
	mypy

constraints: .venv/complete ## Renew constraints.txt, the day that services resolve to, and the names of their packages
	sed -i.old "s/^export UV_EXCLUDE_NEWER .*/export UV_EXCLUDE_NEWER ?= $$(date -u +%Y-%m-%dT00:00:00Z)/" Makefile
	rm Makefile.old
	env -u UV_EXCLUDE_NEWER uv pip compile pyproject.toml --group dev --universal --upgrade --quiet \
	    --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    --output-file constraints.txt
	python -m tests.packages

costs: .venv/complete ## What a request costs with each feature (some minutes; table of docs/performance.md)
	rm -rf build/costs
	copier copy --trust --defaults --quiet --vcs-ref HEAD -d preset=everything . build/costs
	cd build/costs && uv sync --quiet && uv run python ../../docs/tables/costs.py | grep -v '^{'

pictures: .venv/complete ## Regenerate the documentation's pictures; needs Prometheus
	python docs/pictures/make.py
	python -m docs.pictures.dashboards

pythons: .venv/complete ## The default service's fast tests on each Python that is installed
	pytest -s -rs tests/pythons

everything: .venv/complete ## Everything at full size: hours
	$(MAKE) test lint combinations targets services live pythons
	$(MAKE) updates fire FULL=1
	$(MAKE) rows ROWS=""

rows: .venv/complete ## All tests of some rows of the matrix: make rows ROWS="minimal or standard"
	pytest -n 2 --dist worksteal tests/renders/test_projects.py -k "$$ROWS"
	WHOLE=1 pytest -s tests/suites -k "$$ROWS"

tables: .venv/complete ## Write docs/matrix.md, from the tests run since `make clean`, and the table of updates
	python docs/tables/make.py

release: test lint ## Tag a version, once the tests pass: make release VERSION=0.2.0
	python .ci/release.py "$(VERSION)"

clean: ## Remove everything that these targets created
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache

# Some systems ship Python without ensurepip; their own pip installs into the environment then.
.venv/complete: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Slipway needs Python 3.11 or newer: make PYTHON=python3.13 ..." >&2; exit 1; }
	@echo "Preparing .venv ..."
	@rm -rf .venv
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null && $(PYTHON) -m venv .venv \
	    || $(PYTHON) -m venv --without-pip .venv
	@$(BIN)/python -m pip --version >/dev/null 2>&1 \
	    && pip="$(BIN)/python -m pip" || pip="$(PYTHON) -m pip --python $(BIN)/python"; \
	    $$pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	@touch $@

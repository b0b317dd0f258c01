# Needs make and Python 3.11 or later; everything else goes into .venv.
# PYTHON=python3.12 picks the interpreter of a new .venv, ARGS="..." is passed on to the command.

PY := .venv/bin/python

.PHONY: help demo test drill e2e-compose check fmt bench schema tools nats dashboards lock clean
.DEFAULT_GOAL := help

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: .venv/demo.stamp ## start NATS, the services, a gateway and a page to watch them
	@$(PY) -m deploy.demo $(ARGS)

test: .venv/dev.stamp ## run the tests (ARGS="-k resume")
	@$(PY) -m pytest $(ARGS)

drill: .venv/dev.stamp ## minutes of faults under load: kills, restarts, cuts, storms
	@$(PY) -m pytest -m drill tests/drill $(ARGS)

e2e-compose: .venv/dev.stamp ## the end-to-end tests against deploy/compose.yaml; needs a container engine
	@CARILLON_TEST_STACK=compose $(PY) -m pytest --timeout 300 tests/e2e $(ARGS)

check: .venv/dev.stamp ## format, lint, types, import contracts, schema drift
	@scripts/check

fmt: .venv/dev.stamp ## format the code and apply safe fixes
	@$(PY) -m ruff check --fix-only --quiet . && $(PY) -m ruff format .

bench: .venv/dev.stamp ## measure, peers beside us
	@$(PY) -m benchmarks $(ARGS)

schema: .venv/dev.stamp ## write the JSON Schema of the wire, and what the chart's values become
	@$(PY) -m proto.schema && $(PY) -m deploy.helm

tools: .venv/dev.stamp ## build helm, with which the chart's tests render
	@scripts/tools

nats: .venv/dev.stamp ## write the NATS accounts and their table
	@$(PY) -m deploy.nats accounts

dashboards: .venv/dev.stamp ## write Grafana's dashboards
	@$(PY) -m deploy.monitoring

lock: .venv/uv.stamp ## write the lock files again (ARGS=--upgrade for newer versions)
	@scripts/lock $(ARGS)

clean: ## remove .venv and every cache
	@rm -rf .venv build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is as new as the lock file it stands for, so a warm run starts no installer.
.venv/demo.stamp .venv/dev.stamp: .venv/uv.stamp

.venv/%.stamp: requirements/%.txt
	@PYTHON="$(PYTHON)" scripts/bootstrap $*

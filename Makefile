# `make` or `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# pip and venv answer Ctrl-C with a traceback: here it simply ends them.
AT_CTRL_C := import signal; signal.signal(signal.SIGINT, signal.SIG_DFL);
PIP := $(BIN)/python -c '$(AT_CTRL_C) import runpy; runpy.run_module("pip", run_name="__main__", alter_sys=True)'
INSTALL := $(PIP) install --quiet --disable-pip-version-check
SERVE ?=
DEMO ?=
# What is imported is compiled once, not by each of the hundreds of processes that the tests start.
unexport PYTHONDONTWRITEBYTECODE
# Tests wait for much, so more of them run at a time than a small machine has cores.
JOBS ?= 4
PARALLEL := -n $(JOBS) --dist=worksteal
# CI sets it: then exactly what requirements/ci.txt names is installed, and a file with another hash is refused.
LOCKED ?=
LOCK ?=
SBOM ?= build/sbom.json
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' $(LOCK)

.DEFAULT_GOAL := help
.PHONY: help serve demo install check test test-again test-lowest soak fuzz lint types docs man messages screenshots campaign bench bench-abuse bench-queries bench-reconcile docker-check lock audit sbom clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-16s %s\n", $$1, $$2}'

serve: $(VENV)/installed ## Install what is needed, migrate the embedded SQLite, print the CallbackUrl, serve
	@exec $(BIN)/esms-calls serve $(SERVE)

demo: $(VENV)/installed ## Serve a fortnight of made-up calls to look at, with a sandbox for eSMS (DEMO="--port 9000", DEMO=--help)
	@exec $(BIN)/python -m demo $(DEMO)

install: $(VENV)/installed ## Make the virtual environment in .venv with the program in it

check: lint types ## Lint, types and unit tests: under a minute, before every commit
	$(BIN)/python -m pytest -n 2 tests/unit

test: $(VENV)/installed-dev ## Run all tests, on SQLite and a real PostgreSQL (TEST_DATABASE_URL uses another one)
	$(BIN)/python -m pytest $(PARALLEL) $(TESTS)

test-again: $(VENV)/installed-dev ## Run the tests that failed last once more, one at a time: what a busy machine disturbed passes
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none

test-lowest: ## Run all tests with the oldest versions that pyproject.toml allows, in .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	sed -nE 's/^ +"([a-z0-9-]+)(\[[a-z]+\])?>=([0-9.]+)",.*$$/\1==\3/p' pyproject.toml > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-lowest/bin/python -m pip install --quiet -c .venv-lowest/constraints.txt --editable '.[parquet]' --group dev
	.venv-lowest/bin/python -m pytest $(PARALLEL) $(TESTS)

soak: $(VENV)/installed-dev ## Run durability with longer times and generated tests with more examples and a million random requests (SOAK=2 doubles times; a night)
	SOAK=$(or $(SOAK),1) $(BIN)/python -m pytest $(PARALLEL) tests/system/test_durability.py tests/system/test_exactly_once.py tests/system/test_failover.py \
	  tests/unit/calls tests/unit/esms tests/integration/storage tests/integration/callbacks tests/integration/web tests/integration/cli/test_interrupt.py
	FUZZ_REQUESTS=1000000 $(BIN)/python -m pytest -rP 'tests/system/test_fuzzed_callbacks.py::test_no_fuzzed_request_does_harm[on-text]'
	SOAK=$(or $(SOAK),1) $(BIN)/python -m pytest -rP tests/system/test_proxies.py -k ten_times
	PARTITIONED=1 $(BIN)/python -m pytest $(PARALLEL) -k postgresql tests/integration/storage tests/integration/callbacks \
	  --ignore-glob '*/test_migrations.py' --ignore-glob '*/test_expand_and_contract.py' --ignore-glob '*/test_partitions.py'
	$(MAKE) campaign CAMPAIGN_SEED=$$(date +%s)

fuzz: $(VENV)/installed-dev ## Send random requests to the callback URL, each for a minute: fast path on and off, nginx, Caddy (FUZZ_SEED=1)
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) $(BIN)/python -m pytest -rP -k fuzzed tests/system/test_fuzzed_callbacks.py tests/system/test_proxies.py

lint: $(VENV)/installed-dev ## Check style, import layers and the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

types: $(VENV)/installed-bench ## Check types
	$(BIN)/mypy

docs: $(VENV)/installed-dev ## Write the generated parts of README.md and docs/ anew, from the code
	WRITE_DOCS=1 $(BIN)/python -m pytest tests/unit/test_docs.py

man: $(VENV)/installed ## Write the man page build/esms-calls.1 from the help; read it by `man -l build/esms-calls.1`
	mkdir -p build
	$(BIN)/python -m webapp.cli.man_page > build/esms-calls.1.new
	mv build/esms-calls.1.new build/esms-calls.1

messages: $(VENV)/installed-dev ## Collect the page's texts for translation in webapp/web/translations
	$(BIN)/pybabel -q extract -F pyproject.toml --no-location --no-wrap --sort-output --omit-header -o $(VENV)/messages.pot webapp/web
	$(BIN)/pybabel -q update -l vi -i $(VENV)/messages.pot -d webapp/web/translations --no-wrap --no-fuzzy-matching \
	  --ignore-obsolete --omit-header

screenshots: $(VENV)/installed-dev ## Take the pictures in docs/images anew, from the demo, with chromium
	$(BIN)/python -m demo.screenshots

campaign: $(VENV)/installed-dev ## Place 5,000 sandbox calls with every oddity, reconcile, compare every field (minutes; CAMPAIGN_SEED=7)
	CAMPAIGN_CALLS=5000 CAMPAIGN_SEED=$(or $(CAMPAIGN_SEED),7) $(BIN)/python -m pytest tests/system/test_campaign.py

bench: $(VENV)/installed-bench ## Measure receiving against peers, as ratios (an hour; BENCH=--quick, BENCH=--help)
	$(BIN)/python -W "ignore:XDG_RUNTIME_DIR" -m bench.receive $(BENCH)

bench-abuse: $(VENV)/installed-bench ## Measure callbacks beside floods, slow and oversized requests (BENCH=--quick)
	$(BIN)/python -W "ignore:XDG_RUNTIME_DIR" -m bench.abuse $(BENCH)

bench-queries: $(VENV)/installed-bench ## Measure page, API, report and documented SQL with 10 million calls (an hour; BENCH=--quick)
	$(BIN)/python -W "ignore:XDG_RUNTIME_DIR" -m bench.queries $(BENCH)

bench-reconcile: $(VENV)/installed-bench ## Measure reconcile runs against their bounds, as ratios (an hour; BENCH=--quick)
	$(BIN)/python -W "ignore:XDG_RUNTIME_DIR" -m bench.reconcile $(BENCH)

docker-check: $(VENV)/installed-dev ## Run the Dockerfile's steps in a clean folder, without an engine
	$(BIN)/hadolint Dockerfile
	$(BIN)/python tests/helpers/run_dockerfile.py

lock: $(VENV)/installed-dev ## Choose the versions of image and CI, with hashes, in requirements/ (LOCK=--upgrade takes newer ones)
	@$(COMPILE) --extra parquet pyproject.toml -o requirements/image.txt
	@$(COMPILE) --group build -o requirements/build.txt
	@$(COMPILE) --extra parquet --group build --group dev --group bench -c requirements/image.txt -c requirements/build.txt \
	  pyproject.toml -o requirements/ci.txt

audit: $(VENV)/installed-dev ## Look for known vulnerabilities of the locked packages (warns where there is no network)
	@$(BIN)/python tests/helpers/audit.py

sbom: $(VENV)/installed-dev ## Write build/sbom.json (SBOM=FILE): which packages the image holds, in CycloneDX
	@mkdir -p $(dir $(SBOM))
	@$(BIN)/python -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml --mc-type application --output-reproducible \
	  --output-format JSON --output-file $(SBOM) requirements/image.txt

clean: ## Remove the virtual environment and caches; keeps instance/ with its data
	rm -rf $(VENV) .venv-lowest .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist

$(VENV)/bin/python:
	@$(PYTHON) -S -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is older: make PYTHON=python3.12 …"; exit 1; }
	@echo "Creating a virtual environment in $(VENV)"
	@$(PYTHON) -c '$(AT_CTRL_C) import venv; venv.main(["$(VENV)"])'

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing esms-calls and what it needs into $(VENV): one or two minutes, once"
ifeq ($(LOCKED),)
	@$(INSTALL) --editable '.[parquet]'
else
	@$(INSTALL) --require-hashes -r requirements/ci.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
endif
	@touch $@

# pip reads dependency groups from 25.1 on.
$(VENV)/installed-dev: pyproject.toml $(VENV)/installed
ifeq ($(LOCKED),)
	@echo "Installing what the tests need into $(VENV)"
	@$(INSTALL) --upgrade 'pip>=25.1'
	@$(INSTALL) --group dev
endif
	@touch $@

$(VENV)/installed-bench: pyproject.toml $(VENV)/installed-dev
ifeq ($(LOCKED),)
	@echo "Installing what the benchmarks need into $(VENV)"
	@$(INSTALL) --group bench
endif
	@touch $@

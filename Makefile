# Everything starts here. `make run` needs only make and Python >= 3.11, and installs nothing outside .venv.
BIN := .venv/bin
TESTS ?= tests
PYTEST := $(BIN)/pytest -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true
# Each start of the gateway is several processes, which would all compile the same modules.
unexport PYTHONDONTWRITEBYTECODE
TOGETHER_fuzz := tests/guarantees/fuzz tests/api/test_schemathesis.py tests/api/test_broken_values.py tests/ledger/invoicing/test_issued_invoices.py
TOGETHER_chaos := tests/guarantees/histories tests/notifications/test_deaths.py tests/policies/experiments tests/ledger/reports/test_experiments.py \
	tests/guarantees/ai/test_aborts.py
ALONE_chaos := tests/guarantees/chaos tests/guarantees/attacks tests/guarantees/alerts

.PHONY: help run unit test check docs format reference pictures fuzz chaos bench bench-check lock node-clients
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

help: ## this list
	@sed -nE 's/^([a-z-]+( [a-z]+)*):.*## (.*)/\1\t\3/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name does; do \
		printf '  make %-12s %s\n' "$$name" "$$does"; done

run: .venv/.installed ## serve a demo on http://127.0.0.1:8080 and print calls to try
	@$(BIN)/gateway demo

unit: .venv/.installed-dev ## the tests that need no store, in under 20 seconds
	$(PYTEST) --numprocesses=2 --quiet -m unit $(TESTS)

# Three processes on two cores: the one with the tests that kill and freeze waits most of its time.
test: .venv/.installed-dev ## the whole suite, against real PostgreSQL and Valkey that it starts itself
	$(PYTEST) --numprocesses=3 $(TESTS)

check: .venv/.installed-dev ## format, lint, types and architecture; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest --quiet tests/test_architecture.py
	$(MAKE) docs

docs: .venv/.installed-dev ## build the documentation as a site into build/site; fails on a link to nothing
	$(BIN)/python scripts/docs-pages
	$(BIN)/zensical build --strict --config-file zensical.toml

format: .venv/.installed-dev ## format the code and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

reference: .venv/.installed ## write docs/reference/ from the code
	$(BIN)/python -m gateway.http.problem_reference > docs/reference/errors.md
	$(BIN)/python -m gateway.config.reference > docs/reference/settings.md
	$(BIN)/python -m gateway.metrics_reference > docs/reference/metrics.md
	$(BIN)/python -m gateway.importing.reference > docs/reference/import.md
	$(BIN)/python -m gateway.notifications.events > docs/reference/events.md

pictures: .venv/.installed-dev ## make the pictures of the README and docs/pictures (needs Chromium)
	@$(BIN)/python scripts/pictures

# The long proofs (docs/testing.md) draw from a random seed, which they print; `make fuzz SEED=7` draws the same again.
# What has bounds in time runs alone.
fuzz chaos: .venv/.installed-dev ## the long proofs, from a random seed or from SEED=7
	@seed=$${SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; \
	echo "to draw the same again: make $@ SEED=$$seed"; \
	export GATEWAY_TEST_SCALE=full GATEWAY_TEST_SEED=$$seed GATEWAY_TEST_EXAMPLES=$(EXAMPLES); \
	prove() { $(BIN)/pytest --hypothesis-seed=$$seed --show-capture=stdout --durations=10 "$$@"; }; \
	prove --numprocesses=3 $(TOGETHER_$@); together=$$?; \
	$(if $(ALONE_$@),prove $(ALONE_$@) &&) exit $$together

bench: .venv/.installed-dev ## the benchmarks of docs/benchmarks.md
	$(BIN)/python -m benchmarks

bench-check: .venv/.installed-dev ## fails if a call costs more than recorded, by its ratio to nginx + Lua
	$(BIN)/python -m benchmarks.check

node-clients: build/node-clients/.installed ## install the Node clients that some tests run (needs npm)

lock: ## resolve the dependencies anew and write the lock files (needs uv)
	scripts/lock

.venv/.installed: requirements.lock pyproject.toml
	@scripts/install requirements.lock
	@touch $@

.venv/.installed-dev: requirements-dev.lock pyproject.toml
	@scripts/install requirements-dev.lock
	@touch $@

NODE_CLIENTS := tests/guarantees/ai/node
build/node-clients/.installed: $(NODE_CLIENTS)/package.json $(NODE_CLIENTS)/package-lock.json
	@mkdir -p $(@D)
	@cp $^ $(@D)
	cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

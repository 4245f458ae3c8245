# Everything starts here. `make run` needs only make and Python >= 3.11; nothing is installed outside .venv.
BIN := .venv/bin
TESTS ?= tests

.PHONY: run test check bench lock
.DELETE_ON_ERROR:

run: .venv/.installed
	@$(BIN)/gateway demo

test: .venv/.installed-dev
	$(BIN)/pytest $(TESTS)

check: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest --quiet tests/test_architecture.py

bench: .venv/.installed-dev
	$(BIN)/python -m benchmarks

lock:
	scripts/lock

.venv/.installed: requirements.lock pyproject.toml
	@scripts/install requirements.lock
	@touch $@

.venv/.installed-dev: requirements-dev.lock pyproject.toml
	@scripts/install requirements-dev.lock
	@touch $@

# Everything starts here. `make run` needs only make and Python >= 3.11; nothing is installed outside .venv.
BIN := .venv/bin
TESTS ?= tests
# Each start of the gateway is several processes, which would all compile the same modules.
unexport PYTHONDONTWRITEBYTECODE
ALSO_fuzz := tests/api/test_schemathesis.py tests/ledger/invoicing/test_issued_invoices.py

.PHONY: run test check fuzz chaos bench lock
.DELETE_ON_ERROR:

run: .venv/.installed
	@$(BIN)/gateway demo

test: .venv/.installed-dev
	$(BIN)/pytest --numprocesses=2 --dist=loadgroup -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true $(TESTS)

check: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest --quiet tests/test_architecture.py

# The long proofs (docs/testing.md). Each prints its seed; `make fuzz SEED=7` draws the same chances again.
fuzz chaos: .venv/.installed-dev
	@seed=$${SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; \
	echo "the same again: make $@ SEED=$$seed"; \
	GATEWAY_TEST_SCALE=full GATEWAY_TEST_SEED=$$seed \
	$(BIN)/pytest tests/guarantees/$@ $(ALSO_$@) --hypothesis-seed=$$seed --show-capture=stdout --durations=10

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

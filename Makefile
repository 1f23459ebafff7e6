# Everything a developer or CI does. `make demo` and `make test` need nothing but Python 3.11,
# Node 20 and git; as root on Debian the rest is installed, elsewhere what is missing is named.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STATIC := src/meltemi/console/static

.PHONY: setup demo test check bench web golden format clean

setup: $(VENV)/.ready $(STATIC)/index.html

$(VENV)/.ready: requirements-dev.lock pyproject.toml
	@tools/need
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

WEB_SOURCES := $(shell find web -path web/node_modules -prune -o -path web/dist -prune -o -type f -print)

$(STATIC)/index.html: $(WEB_SOURCES)
	@tools/need
	cd web && npm ci --no-audit --no-fund --loglevel=error && npm run --silent build
	touch $@

web: $(STATIC)/index.html

demo: setup
	$(BIN)/meltemi up --demo bookinfo

test: setup
	$(BIN)/python -m pytest
	cd web && npm test --silent

check: setup
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd web && npm run --silent lint

bench: setup
	@WITH_BENCH=1 tools/need
	$(BIN)/python -m bench

golden: setup
	MELTEMI_GOLDEN=rewrite $(BIN)/python -m pytest tests/golden -q

format: setup
	$(BIN)/ruff check --fix --quiet src tests bench
	$(BIN)/ruff format src tests bench

clean:
	rm -rf $(VENV) web/node_modules $(STATIC) .mypy_cache .ruff_cache .pytest_cache

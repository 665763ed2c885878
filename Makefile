# What one can do here. `make` lists it.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
VENV := $(TARGET)/peers-venv
# Where the corpora of real bounces and reports lie, if they are there.
export SENDLAKE_CORPORA ?= ../shared/corpora
export SENDLAKE_TEST_PYTHON := $(abspath $(VENV))/bin/python
export SENDLAKE_BIN := $(abspath $(TARGET))/debug/sendlake

.PHONY: help build demo test check fmt clippy golden golden-lake torture corpora bench fuzz clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build:  ## build everything in the profile that the demo and the tests share
	$(CARGO) build --workspace --locked

demo: build  ## three acts: mail goes out, a domain warms up, a campaign is cut (ARGS=--keep goes on serving)
	$(SENDLAKE_BIN) demo $(ARGS)

# Python's peers, and one of npm's; without npm the tests that need it say so and go on.
$(VENV)/ready: tests/peers/requirements.txt tests/peers/package.json tests/peers/package-lock.json
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/peers/requirements.txt
	if command -v npm > /dev/null; then mkdir -p $(VENV)/node && cp tests/peers/package*.json $(VENV)/node && \
		npm ci --prefix $(VENV)/node --omit=dev --ignore-scripts --silent; fi
	touch $@

test: build $(VENV)/ready  ## run all tests; makes a Python venv for the peers by itself
	$(CARGO) test --workspace --locked

torture: build $(VENV)/ready  ## kill the server at 100 seeded points instead of ten
	SENDLAKE_TORTURE_KILLS=100 $(CARGO) test --workspace --locked --test e2e torture -- --nocapture

check: fmt clippy golden  ## formatting, lints with warnings denied, golden files

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

golden:  ## fail when a view's golden case would change
	$(CARGO) test --workspace --locked --lib views::

golden-lake: build  ## make the golden lake of a new schema version (VERSION=n), for tests to read ever after
	SENDLAKE_GOLDEN_LAKE=$(VERSION) $(CARGO) test --workspace --locked --test e2e golden_lake

corpora:  ## print how many of the real bounces in $SENDLAKE_CORPORA are classified right, and each miss
	$(CARGO) test --workspace --locked --lib corpus_of -- --nocapture

bench: $(VENV)/ready  ## measure what README quotes, in release mode, beside Postfix where it is installed
	$(CARGO) build --release --workspace --locked
	bench/run $(TARGET)/release/sendlake

fuzz:  ## fuzz the parsers of hostile input for a minute each (needs cargo-fuzz)
	fuzz/run

clean:  ## remove what make made, but for the compiled dependencies
	rm -rf demo-data bench-data $(VENV)

# What one can do here. `make` lists it.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
VENV := $(TARGET)/peers-venv
# Where the corpora of real bounces and reports lie, if they are there.
export SENDLAKE_CORPORA ?= ../shared/corpora
export SENDLAKE_TEST_PYTHON := $(abspath $(VENV))/bin/python
# Stand-ins of warehouses, a venv each, as their requirements exclude each other.
export SENDLAKE_TEST_VENVS := $(abspath $(TARGET))/peers-venvs
export SENDLAKE_BIN := $(abspath $(TARGET))/debug/sendlake

.PHONY: help build demo test check fmt clippy golden golden-lake torture outage soak corpora bench bench-large fuzz clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build:  ## build everything in the profile that the demo and the tests share
	$(CARGO) build --workspace --locked

demo: build  ## five acts: mail goes out, answers come back, a domain warms up, a campaign is cut, the events leave for a warehouse (ARGS=--keep goes on serving)
	$(SENDLAKE_BIN) demo $(ARGS)

# Python's peers, and one of npm's; without npm the tests that need it say so and go on.
$(VENV)/ready: tests/peers/requirements.txt tests/peers/package.json tests/peers/package-lock.json
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/peers/requirements.txt
	if command -v npm > /dev/null; then mkdir -p $(VENV)/node && cp tests/peers/package*.json $(VENV)/node && \
		npm ci --prefix $(VENV)/node --omit=dev --ignore-scripts --silent; fi
	touch $@

$(SENDLAKE_TEST_VENVS)/ready: tests/peers/venvs.sh $(wildcard tests/peers/venvs/*)
	tests/peers/venvs.sh $(SENDLAKE_TEST_VENVS)

PEERS := $(VENV)/ready $(SENDLAKE_TEST_VENVS)/ready

test: build $(PEERS)  ## run all tests, or TEST=…; makes a Python venv for the peers by itself
	$(CARGO) test --workspace --locked $(if $(TEST),-- $(TEST) --nocapture)

torture: build $(PEERS)  ## 100 kills of two nodes over 200,000 events, 40 power cuts, 50 kills of loads; all at seeded points
	SENDLAKE_EXPORT_KILLS=50 SENDLAKE_TORTURE_KILLS=100 SENDLAKE_TORTURE_MESSAGES=95000 SENDLAKE_POWER_CUTS=40 SENDLAKE_POWER_MESSAGES=10000 \
		$(CARGO) test --workspace --locked --test e2e torture -- --nocapture --test-threads 1

MINUTES ?= 30
soak: build $(PEERS)  ## a server under load for MINUTES=30: memory and open files stay where they were
	SENDLAKE_SOAK_S=$$(( $(MINUTES) * 60 )) $(CARGO) test --workspace --locked --test e2e aging -- --nocapture

outage: build  ## the lake away for an hour's worth of events (10.8 M); 10,000 requests to an S3 that fails at random
	SENDLAKE_OUTAGE_EVENTS=10800000 $(CARGO) test --workspace --locked --lib an_hour_without_the_lake -- --nocapture
	SENDLAKE_FAULT_OPERATIONS=10000 $(CARGO) test --workspace --locked --lib an_s3_that_fails -- --nocapture

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

bench: $(VENV)/ready  ## measure what README quotes, in release mode, beside Postfix, DuckDB and deltalake
	$(CARGO) build --release --workspace --locked
	bench/run $(TARGET)/release/sendlake

bench-large: $(VENV)/ready  ## a lake of 50 M events: what a question costs; 6.1 GB of disk, 25 minutes after the build
	$(CARGO) build --release --workspace --locked
	date -u
	bench/run $(TARGET)/release/sendlake large

fuzz:  ## fuzz the parsers of hostile input for a minute each (needs cargo-fuzz)
	fuzz/run

clean:  ## remove what make made, but for the compiled dependencies
	rm -rf demo-data bench-data $(VENV)

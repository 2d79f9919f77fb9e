# Torpor. `make` lists the targets. Only Python is needed, except where a target says otherwise.
SHELL := /bin/bash
.SHELLFLAGS := -eo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PY := $(BIN)/python
PROTO := functions/ingest/proto

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "torpor needs Python 3.11, 3.12 or 3.13; name one with PYTHON=...")'
	@echo "installing what Torpor needs into $(VENV) (once; about a minute)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@touch $(READY)

.PHONY: setup
setup: $(READY) ## Install the locked dependencies into .venv

.PHONY: run
run: $(READY) ## Run everything here: the four functions, the engine, a broker
	@exec $(PY) -m functions.local

.PHONY: load
load: $(READY) ## Send generated logs to a running Torpor: RATE=1000 DURATION=60
	@RATE=$(RATE) DURATION=$(DURATION) $(PY) -m functions.local.load

BUILDER ?= docker
REGISTRY ?= dev.local
TAG ?= latest
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

.PHONY: images
images: ## Build the images of the functions: REGISTRY=dev.local TAG=latest BUILDER=docker
	@for function in ingest index query export; do \
		$(BUILDER) build --build-arg FUNCTION=$$function --build-arg VERSION=$(VERSION) \
			--build-arg REVISION="$$(git rev-parse HEAD)" --tag $(REGISTRY)/torpor-$$function:$(TAG) . ; \
	done

.PHONY: migrate
migrate: $(READY) ## Apply schema/ to the ClickHouse that CLICKHOUSE_HOST names
	@$(PY) -m functions.common.migrate

.PHONY: dead-letters
dead-letters: $(READY) ## List, show or replay dead letters: ARGS="replay 0/3"
	@$(PY) -m functions.index.dead_letters $(ARGS)

.PHONY: replay
replay: $(READY) ## Index a part of the log topic again: ARGS="--from -15m --dry-run"
	@$(PY) -m functions.index.replay $(ARGS)

.PHONY: rollup
rollup: $(READY) ## Make missing rollups on the ClickHouse that CLICKHOUSE_HOST names
	@$(PY) -m functions.common.rollup

.PHONY: test
test: $(READY) ## Unit, contract and end-to-end tests on the embedded parts
	$(PY) -m pytest

.PHONY: test-manifests
test-manifests: $(READY) ## Manifests by their definitions and Knative's rules, and planted mistakes
	$(PY) -m pytest tests/contract/test_manifests.py tests/contract/test_knative_manifests.py

# What comes before Kafka is the same, whatever the broker.
NO_KAFKA := elasticsearch_clients grpc handler relay ship splunk_client

.PHONY: test-kafka
test-kafka: $(READY) ## End-to-end tests on Apache Kafka (needs Java 17 and Maven)
	TEST_KAFKA=apache $(PY) -m pytest -m "not large" tests/kafka tests/e2e $(foreach name,$(NO_KAFKA),--ignore tests/e2e/test_$(name).py)

.PHONY: test-input
test-input: $(READY) ## Bad input of every kind against running parts; prints a line a class
	$(PY) -m tests.input

.PHONY: chaos
chaos: $(READY) ## Break everything under load and count: SEED=11, CAMPAIGN=long (Kafka needs Java 17 and Maven)
	$(PY) -m tests.chaos

.PHONY: test-knative
test-knative: $(READY) ## The real kn, kustomize and queue-proxy on each function (needs Go; CAMPAIGN=long, PODS=8)
	$(PY) -m tests.knative.tools
	$(PY) -m pytest -v tests/knative

.PHONY: test-images
test-images: $(READY) ## Build the images without a registry, run them, measure (root; buildah, runc, debootstrap)
	$(PY) -m pytest -s tests/images

AGENTS := tests/agents/node
CLIENTS := $(AGENTS)/node_modules/.package-lock.json

$(CLIENTS): $(AGENTS)/package-lock.json
	@if command -v npm >/dev/null; then npm ci --loglevel=error --prefix $(AGENTS) && touch $@; fi

.PHONY: test-agents
test-agents: $(READY) $(CLIENTS) ## Clients that need more than Python, against the whole (npm, rsyslog)
	$(PY) -m pytest tests/agents

.PHONY: test-large
test-large: $(READY) ## Export a million logs; prints memory and time
	$(PY) -m pytest -s -m large tests/e2e

.PHONY: test-extras
test-extras: $(READY) ## Start each function with its own dependencies and nothing else
	@tests/support/extras.sh

.PHONY: bench
bench: $(READY) ## Measure the codecs of the table on generated logs
	$(PY) -m tests.bench.storage

.PHONY: bench-ingest
bench-ingest: $(READY) ## Measure how many logs a second ingest takes per core, in each protocol
	@$(PY) -m tests.bench.ingest

.PHONY: lint
lint: $(READY) ## Lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: format
format: $(READY) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: proto
proto: $(READY) ## Generate functions/ingest/proto from schema/*.proto
	@$(PY) -m grpc_tools.protoc -I schema --python_out=$(PROTO) --pyi_out=$(PROTO) log.proto loki.proto
	@$(PY) -m grpc_tools.protoc -I schema --grpc_python_out=$(PROTO) log.proto

.PHONY: lock
lock: $(READY) ## Resolve the dependencies anew into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --quiet --output-file requirements.lock

.PHONY: clean
clean: ## Remove what was installed, built and stored here
	rm -rf $(VENV) build data $(AGENTS)/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis

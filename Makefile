# The commands of the project. `make demo` and `make test` need Python 3.11, make and a package index, and set up the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: help setup
help: ## list the targets
	@grep -hE '^[a-z_-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z_-]+):.*## /\1\t/' | expand -t 12

setup: .venv/.installed ## make .venv with every pinned package

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[programs]' --group dev
	touch $@

.PHONY: lint
lint: setup ## format, lint and types, as the pre-commit hooks run them
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

# Debian's Bazel, and its copies of the rules that it would otherwise fetch.
BAZEL_PACKAGES := bazel-bootstrap bazel-platforms bazel-rules-java bazel-rules-proto
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)

.PHONY: bazel
bazel: setup ## run the tests under Bazel, offline; installs Debian's Bazel where it is missing
	dpkg --status $(BAZEL_PACKAGES) >/dev/null 2>&1 || { $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(BAZEL_PACKAGES); }
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/bazel_offline/bazel test //...

# The menu. Everything installs into .venv; nothing else is touched but Debian packages that `make test` needs as peers.
PYTHON ?= python3
# The CPU build where pip knows one; for a GPU or another index: make setup TORCH="torch --index-url URL"
TORCH  ?= torch==2.13.0
FILMS  ?=
COUNT  ?=
STAY   ?=
ONLY   ?=
ROUNDS ?= 200
V      := .venv/bin
STAMP  := .venv/.installed
# Debian asks it before a package's service is started; 101 is no.
POLICY := /usr/sbin/policy-rc.d

.PHONY: setup demo test faults lint types bench train clean

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	@test -x $(V)/pip || $(PYTHON) -m venv .venv || { echo "apt-get install python3-venv"; exit 1; }
	$(V)/pip install --quiet --upgrade pip
	$(V)/pip install --quiet $(TORCH)
	$(V)/pip install --quiet --constraint constraints.txt --editable '.[demo,train,test,dev]'
	@touch $@

setup: $(STAMP) ## .venv with .venv/bin/triage

demo: $(STAMP) ## the main job: a morning of studies arrives and is triaged (FILMS=folder, COUNT=40, STAY=1)
	$(V)/triage demo $(if $(FILMS),--films "$(FILMS)") $(if $(COUNT),--count $(COUNT)) $(if $(STAY),--stay)

test: $(STAMP) peers ## lint, types and all tests
	$(MAKE) --no-print-directory lint types
	$(V)/python -m pytest

faults: $(STAMP) peers ## every fault of deploy/FAULTS.md, one by one (ROUNDS=200 of kill -9; ONLY=11,95-99 or a word)
	ROUNDS=$(ROUNDS) $(V)/python -m tests.faults $(ONLY)

.PHONY: peers
peers: # dcmtk and Orthanc (not its service) are independent DICOM peers, ip makes machines, Chromium reads the page; without root their tests are skipped, saying so
	@command -v storescu >/dev/null && command -v ip >/dev/null && command -v chromium >/dev/null && { command -v Orthanc || test -x /usr/sbin/Orthanc; } >/dev/null || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && { [ -e $(POLICY) ] || { \
	    trap 'rm -f $(POLICY)' EXIT; trap 'exit 1' INT TERM; \
	    printf '#!/bin/sh\nexit 101\n' >$(POLICY) && chmod 755 $(POLICY); }; } && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends dcmtk orthanc iproute2 chromium >/dev/null; } || \
	  echo "dcmtk, orthanc, iproute2 or chromium missing: their tests will be skipped"

lint: $(STAMP) ## ruff, formatting, import arrows
	$(V)/ruff check .
	$(V)/ruff format --check .
	$(V)/lint-imports

types: $(STAMP) ## mypy, strict
	$(V)/mypy

bench: $(STAMP) ## how fast, beside peers and what is possible (ONLY=latency; the README names them)
	$(V)/python -m tests.benchmarks $(ONLY)

train: $(STAMP) ## train on FILMS (folders NORMAL and PNEUMONIA, or a CSV) but HELD_OUT, write to OUT
	$(V)/triage train --films "$(FILMS)" --out "$(or $(OUT),trained)" $(if $(HELD_OUT),--held-out "$(HELD_OUT)")

clean: ## remove .venv and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

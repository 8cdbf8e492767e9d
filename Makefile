# The menu. Everything installs into .venv; nothing else is touched but Debian packages that `make test` needs as peers.
PYTHON ?= python3
# The CPU build where pip knows one; for a GPU or another index: make setup TORCH="torch --index-url URL"
TORCH  ?= torch==2.13.0
FILMS  ?=
COUNT  ?=
STAY   ?=
ONLY   ?=
ROUNDS ?= 200
SBOM   ?= sbom.json
V      := .venv/bin
STAMP  := .venv/.installed
# Debian asks it before a package's service is started; 101 is no.
POLICY := /usr/sbin/policy-rc.d

.PHONY: setup demo test faults soak lint types bench fuzz train clean install wheel

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	@test -x $(V)/pip || $(PYTHON) -m venv .venv || { echo "apt-get install python3-venv"; exit 1; }
	$(V)/pip install --quiet --upgrade pip
	$(V)/pip install --quiet $(TORCH)
	$(V)/pip install --quiet --constraint constraints.txt --editable '.[demo,train,test,dev]'
	@touch $@

setup: $(STAMP) ## .venv with .venv/bin/triage

demo: $(STAMP) ## the main job: a morning of studies arrives and is triaged (FILMS=folder, COUNT=24, STAY=1)
	$(V)/triage demo $(if $(FILMS),--films "$(FILMS)") $(if $(COUNT),--count $(COUNT)) $(if $(STAY),--stay)

test: $(STAMP) peers ## lint, types and all tests
	$(MAKE) --no-print-directory lint types
	$(V)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile

faults: $(STAMP) peers ## every fault of deploy/FAULTS.md, one by one (ROUNDS=200 of kill -9; ONLY=11,95-99 or a word)
	ROUNDS=$(ROUNDS) $(V)/python -m tests.faults $(ONLY)

soak: $(STAMP) ## half an hour of work: what grows? (MINUTES=30)
	PYTHONPATH=tests:tests/acceptance $(V)/python -m tests.soak $(MINUTES)

wheel: $(STAMP) ## dist/*.whl
	rm -f dist/worklist_triage-*.whl
	$(V)/pip wheel --quiet --no-deps --wheel-dir dist .

install: wheel ## as root, on a host with systemd: /opt/triage, its user, settings and units; again for another version
	deploy/install.sh $(if $(WHEELS),--wheels "$(WHEELS)") dist/worklist_triage-*.whl

.PHONY: peers
peers: # dcmtk and Orthanc (not its service) are independent DICOM peers, ip and systemd-nspawn make machines, nginx is a proxy, rsyslogd takes logs, Chromium reads the page, promtool the alerts; without root their tests are skipped, saying so
	@command -v storescu >/dev/null && command -v ip >/dev/null && command -v chromium >/dev/null && command -v systemd-nspawn >/dev/null && command -v promtool >/dev/null && test -x /usr/sbin/nginx && { command -v rsyslogd || test -x /usr/sbin/rsyslogd; } >/dev/null && { command -v Orthanc || test -x /usr/sbin/Orthanc; } >/dev/null || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && { [ -e $(POLICY) ] || { \
	    trap 'rm -f $(POLICY)' EXIT; trap 'exit 1' INT TERM; \
	    printf '#!/bin/sh\nexit 101\n' >$(POLICY) && chmod 755 $(POLICY); }; } && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends dcmtk orthanc iproute2 chromium systemd-container rsyslog python3-venv prometheus nginx-light >/dev/null; } || \
	  echo "dcmtk, orthanc, iproute2, chromium, systemd-container, rsyslog, prometheus or nginx missing: their tests will be skipped"

lint: $(STAMP) ## ruff, formatting, import arrows
	$(V)/ruff check .
	$(V)/ruff format --check .
	$(V)/lint-imports

types: $(STAMP) ## mypy, strict
	$(V)/mypy

bench: $(STAMP) ## how fast, beside peers and what is possible (ONLY=latency; the README names them)
	$(V)/python -m tests.benchmarks $(ONLY)

fuzz: $(STAMP) ## coverage-guided fuzzing of what reads bytes of strangers, MINUTES=10 for each of three
	$(V)/python -m tests.fuzz --minutes $(or $(MINUTES),10)

train: $(STAMP) ## train on FILMS (folders NORMAL and PNEUMONIA, or a CSV) but HELD_OUT, write to OUT
	$(V)/triage train --films "$(FILMS)" --out "$(or $(OUT),trained)" $(if $(HELD_OUT),--held-out "$(HELD_OUT)")

.PHONY: supply sbom audit-packages
supply: $(STAMP)
	@$(V)/python -c "import cyclonedx_py, pip_audit" 2>/dev/null || $(V)/pip install --quiet --constraint constraints.txt --editable '.[supply]'

sbom: supply ## SBOM=sbom.json: what the daemon needs to run, with native libraries inside wheels; and their licences
	@mkdir -p $(dir $(SBOM))
	$(V)/python deploy/supply/sbom.py $(SBOM)

audit-packages: supply ## ask a vulnerability service about all of it; says so where none can be reached
	$(V)/python deploy/supply/audit_packages.py

clean: ## remove .venv, caches and what was built
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist sbom.json

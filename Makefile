# make up [STACK=local]   set everything up, and bring the cluster up
# make down [STACK=local] stop it, and keep its data
# make quick              the checks, the unit tests, one nginx, and one cluster's life on this machine: two minutes
# make test               whatever guards a promise on this machine
# make test-all           that again with the other nginx versions and more projects, and on Docker where that can be
# make e2e                run the tests on Docker, and keep their results in docs/
# make matrix             let everything happen to sessions of every engine, and keep what it cost in docs/
# make projects           take public projects through it, and keep what was seen in docs/
# make lock               renew the locks

STACK ?= local
VENV := .venv
MADE_WITH := $(shell cat $(VENV)/made-with 2>/dev/null)
# The one that was named before, or the system's own; what a project runs on is another matter (app.python).
PYTHON ?= $(or $(MADE_WITH),$(firstword $(wildcard /usr/bin/python3) python3))
DOCKER := platforms/docker
DOCKER_SCRIPTS := $(DOCKER)/host/*.sh $(addprefix $(DOCKER)/, app/install-python app/find-python app/trusting \
	app/with-compiler nginx/start \
	nginx/deliver nginx/maintain nginx/reloading nginx/renewed postgres/start)

# Three workers for each processor (tests/conftest.py); tests that share a stand are on the same one.
SIDE_BY_SIDE := -n auto --dist loadgroup --no-loadscope-reorder
ON_THIS_MACHINE := tests/unit tests/nginx tests/runtime tests/local

.PHONY: up down quick test test-all e2e matrix projects check lock setup setup-tests

up: setup
	@$(VENV)/bin/cluster up $(STACK)

down: setup
	@$(VENV)/bin/cluster down $(STACK)

# Only a cluster on this machine needs these two here.
setup: $(VENV)/installed
	@! grep -qs 'cluster:platform: local' stacks/Pulumi.$(STACK).yaml || ./scripts/require nginx memcached

# The stamp lasts until a lock changes, or another PYTHON is named.
ifneq ($(origin PYTHON),file)
ifneq ($(PYTHON),$(MADE_WITH))
.PHONY: $(VENV)/installed
endif
endif
$(VENV)/installed: requirements.lock pyproject.toml scripts/make-venv
	@./scripts/make-venv $(PYTHON) $(VENV) requirements.lock
	@touch $@

setup-tests: setup $(VENV)/tests-compiled
	@./scripts/require nginx memcached valkey postgresql pebble chromium chromium-driver shellcheck
	@$(VENV)/bin/python -m tests.pebble || true

$(VENV)/tests-installed: $(VENV)/installed requirements-dev.lock
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --require-hashes -r requirements-dev.lock
	@touch $@

# uv compiles nothing, and processes that tests start write nothing here: each would compile all of Django for itself.
$(VENV)/tests-compiled: $(VENV)/tests-installed
	@$(VENV)/bin/python -m compileall -q -j 0 $(VENV)/lib/python3*/site-packages
	@touch $@

check: setup-tests
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo --no-cache
	shellcheck scripts/* bench/bare-machine platforms/local/*.sh cluster/install-packages cluster/install-local tests/e2e/*.sh .ci/run $(DOCKER_SCRIPTS)

quick: check
	$(VENV)/bin/python -m pytest $(SIDE_BY_SIDE) -m "not wide" -q tests/unit tests/nginx/test_rendered.py \
		tests/nginx/test_reload.py tests/local/test_quick.py

test: check
	$(VENV)/bin/python -m pytest $(SIDE_BY_SIDE) -m "not wide and not quick" --durations=10 $(ON_THIS_MACHINE)

# Those on Docker alone: they start a dozen containers each.
test-all: check
	-$(VENV)/bin/python -m tests.nginx_versions
	$(VENV)/bin/python -m pytest $(SIDE_BY_SIDE) --durations=10 $(ON_THIS_MACHINE)
	@if why=$$($(VENV)/bin/python -m tests.e2e.tools); then $(VENV)/bin/python -m pytest --timeout=3600 tests/e2e; \
		else echo "tests on Docker did not run: $$why"; fi
	@$(VENV)/bin/python -m tests.e2e.results
	@$(VENV)/bin/python -m tests.matrix --age

e2e: setup-tests
	$(VENV)/bin/python -m pytest --timeout=3600 tests/e2e --write-results

matrix: setup-tests
	$(VENV)/bin/python -m tests.matrix

projects: setup-tests
	$(VENV)/bin/python -m tests.projects

lock: $(VENV)/installed
	./scripts/lock

# Two commands do everything on a machine with Python 3.11 to 3.14, make and git:
#   make demo   the main job on real text, in an environment of its own without torch
#   make test   the tests, in an environment with every extra
# A second run installs nothing: stamp files say what is done.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
DEMO_VENV := .venv-demo
PIP_FLAGS := -qq --disable-pip-version-check --no-input --constraint constraints.txt
DEMO_ARGS ?=
# Two processes: the suite waits for stores and compilers as much as it computes.
PYTEST_ARGS ?= -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test install check clean

help:
	@echo "make demo    run the main job on real text    (DEMO_ARGS='--json' adds arguments)"
	@echo "make test    run the tests                    (PYTEST_ARGS='-x -k cache' adds arguments)"
	@echo "make check   ruff, mypy and import-linter"
	@echo "make install only the environment that test and check use"
	@echo "make clean   delete environments, caches and the demo's data"

demo: $(DEMO_VENV)/.installed
	@echo "-- running: vstore demo --dir demo-data $(DEMO_ARGS)"
	@$(DEMO_VENV)/bin/vstore demo --dir demo-data $(DEMO_ARGS) </dev/null

test: $(VENV)/.installed
	@echo "-- running: pytest $(PYTEST_ARGS)"
	@$(VENV)/bin/python -m pytest $(PYTEST_ARGS) </dev/null

install: $(VENV)/.installed

check: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

$(DEMO_VENV)/.installed: pyproject.toml constraints.txt
	@$(call new_environment,$(DEMO_VENV))
	@echo "-- installing vstore[demo] into $(DEMO_VENV), pinned (about 150 MB to download)"
	@$(DEMO_VENV)/bin/python -m pip install $(PIP_FLAGS) --editable '.[demo]'
	@touch $@

# torch first and alone: asked for by its exact version, it is the build that the index prefers for this
# machine, and nothing that comes after can draw in another.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(call new_environment,$(VENV))
	@echo "-- installing torch into $(VENV) (about 200 MB to download, more where the index has only GPU builds)"
	@$(VENV)/bin/python -m pip install $(PIP_FLAGS) "$$(grep '^torch==' constraints.txt)"
	@echo "-- installing vstore[dev] into $(VENV), pinned (about 400 MB to download)"
	@$(VENV)/bin/python -m pip install $(PIP_FLAGS) --editable '.[dev]'
	@touch $@

define new_environment
$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v[:2] <= (3, 14) or sys.exit(f"vstore needs Python 3.11 to 3.14; $(PYTHON) is {v[0]}.{v[1]}: run make PYTHON=/path/to/python3.12")' \
	&& echo "-- creating the environment $(1)" \
	&& { $(PYTHON) -m venv $(1) || { echo "python -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; }
endef

clean:
	rm -rf $(VENV) $(DEMO_VENV) demo-data dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find vstore kernels server tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# make demo, make test: each makes its own virtual environment and can be run again at any time.
#
#   PYTHON=python3.12       the interpreter of that environment
#   VENV=path               where it is; default .venv
#   TORCH='torch==2.13.0'   what to install as torch; empty uses the one that PYTHON already has
#   USE_PYTHON=/path/python take this environment as it is and install nothing
#   WORKERS=n               the processes that tests are spread over; default 2, 0 for none but pytest's own

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
USE_PYTHON ?=
PYTEST_ARGS ?=
# A file's tests stay in one process, as they share what was made for them. Files come in their own order: in that of how
# many tests they have, those of a few long tests would come last, and one process would wait for the other.
WORKERS ?= 2

ifeq ($(USE_PYTHON),)
PY := $(VENV)/bin/python
ENVIRONMENT := $(VENV)/.installed
else
PY := $(USE_PYTHON)
ENVIRONMENT :=
endif

.PHONY: demo test lint docs clean
demo: $(ENVIRONMENT)
	$(PY) -m aiterlite demo --target gfx942

test: $(ENVIRONMENT)
	$(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(VENV)/.installed-lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $$(git ls-files '*.cpp' '*.h' '*.hip')

# The pages as a site, in build/site.
docs: $(VENV)/.installed-docs
	$(VENV)/bin/mkdocs build

$(VENV)/.installed: pyproject.toml constraints.txt scripts/bootstrap.sh
	PYTHON='$(PYTHON)' VENV='$(VENV)' TORCH='$(TORCH)' sh scripts/bootstrap.sh
	touch $@

$(VENV)/.installed-lint: $(VENV)/.installed
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[lint]'
	touch $@

$(VENV)/.installed-reference: $(VENV)/.installed
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[reference]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info

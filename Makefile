# `make quickstart` runs the main job on real input, and `make test` runs the tests.
# Both create the environment at .venv if it does not exist. Outside of this folder they keep files only in
# $DSKD_HOME (default ~/.cache/dskd) and in caches of the libraries.
# `make quickstart STEPS=4` trains only 4 steps; EVAL_TOKENS=5120 evaluates on fewer tokens.

PYTHON ?= python3
BIN := .venv/bin
TORCH := torch==2.13.0
STEPS :=
EVAL_TOKENS :=
# Containers often set it. Then each of the ranks would compile all modules again when it starts.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test check clean

quickstart: .venv/.ready
	$(BIN)/dskd quickstart $(if $(STEPS),--steps $(STEPS)) \
	  $(if $(EVAL_TOKENS),--set eval.num_tokens=$(EVAL_TOKENS))

test: .venv/.ready
	$(BIN)/python -m pytest

check: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# torch comes first and by itself. Where pip's index has CUDA builds only, or for GPUs, name another index:
# make TORCH="torch==2.13.0 --index-url URL" .venv/.ready
.venv/.ready: pyproject.toml
	@command -v g++ >/dev/null || { echo "g++ is missing; DeepSpeed compiles an op with it. Debian: apt-get install g++" >&2; exit 2; }
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "$(PYTHON) is older than 3.11; name another one: make PYTHON=python3.11 quickstart" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e '.[quickstart,test]'
	touch $@

# Not runs/: it has checkpoints.
clean:
	rm -rf .venv build dist *.egg-info

# Two commands matter: `make demo` and `make test`. Each sets up what it needs, once; without a network it uses what is there.
PYTHON ?= python3
TORCH_INDEX ?=
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-core
DEV    := $(VENV)/.installed-dev

.PHONY: demo test lint test-nightly bench clean

demo: $(STAMP)
	$(BIN)/palinode run experiments/demo.py --report

test: $(DEV) lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not nightly"

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test-nightly: $(DEV)
	$(BIN)/python -m pytest -m nightly
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not nightly" --hypothesis-profile explore

bench: $(DEV)
	for program in loss_memory step_time time_to_loss speedrun_rates mask_rates overhead layer_cut task_generation generation long_context stacked_runs page; do $(BIN)/python benchmarks/$$program.py || exit 1; done

# torch first and alone: the build that is there then stays, whatever else is resolved. TORCH_INDEX names the index of another build.
$(VENV)/.installed-torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@touch $@

$(STAMP): $(VENV)/.installed-torch pyproject.toml
	$(BIN)/python -m pip install --quiet -c constraints.txt setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e .
	@touch $@

$(DEV): $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[dev]"
	@touch $@ $(STAMP)

clean:
	rm -rf $(VENV) build src/palinode.egg-info

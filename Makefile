# Two commands matter: `make demo` and `make test`. Each sets up what it needs, once; without a network it uses what is there.
PYTHON ?= python3
TORCH_INDEX ?=
TORCH  := $(shell sed -n 's/^torch==//p' constraints.txt)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-core
DEV    := $(VENV)/.installed-dev

# Images of containers often forbid Python to write bytecode. Then every process compiles what it imports again: torch and Palinode
# take 9.3 CPU s in place of 3.8, and pytest rewrites all test files in each worker. An empty value allows it.
export PYTHONDONTWRITEBYTECODE :=

# One worker more than two cores: a worker that waits for processes or for a clock, 16 % of the time, leaves its core to another.
WORKERS ?= 3

.PHONY: demo test lint warm docs test-nightly battery bench census clean

demo: $(STAMP)
	$(BIN)/palinode demo

test: $(DEV)
	$(MAKE) --no-print-directory --jobs 2 lint warm
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not nightly"

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Beside lint, on the other core: pytest rewrites every test file, and Python compiles what they import. Both workers then find it done.
warm: $(DEV)
	-@$(BIN)/python -m pytest --collect-only --quiet -m "not nightly" >/dev/null

docs: $(DEV)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo build/docs/index.html

test-nightly: $(DEV)
	$(BIN)/python -m pytest -m nightly
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not nightly" --hypothesis-profile explore

battery: $(DEV)
	$(BIN)/python tools/battery.py

census: $(DEV)
	$(BIN)/python tools/census.py

bench: $(DEV)
	for program in loss_memory step_time time_to_loss speedrun_rates overhead layer_cut task_generation generation long_context stacked_runs startup first_result audit_cost step_rate page; do $(BIN)/python benchmarks/$$program.py || exit 1; done

# --no-compile: Python compiles the modules that are imported, when they are; pip would compile all 21,000 and take 90 CPU s longer.
# torch first and alone: the build that is there then stays, whatever else is resolved. TORCH_INDEX names the index of a build;
# without it tools/torch_index.py takes PyTorch's CPU build where no NVIDIA driver could use the other one, and says so in one line.
$(VENV)/.installed-torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	index="$(TORCH_INDEX)"; [ -n "$$index" ] || index="$$($(BIN)/python tools/torch_index.py $(TORCH))"; \
	if [ -z "$$index" ]; then $(BIN)/python -m pip install --no-compile --quiet torch==$(TORCH); \
	else $(BIN)/python -m pip install --no-compile --quiet torch==$(TORCH) --index-url "$$index" $(if $(TORCH_INDEX),,|| $(BIN)/python -m pip install --no-compile --quiet torch==$(TORCH)); fi
	@touch $@

$(STAMP): $(VENV)/.installed-torch pyproject.toml
	$(BIN)/python -m pip install --no-compile --quiet -c constraints.txt hatchling editables
	$(BIN)/python -m pip install --no-compile --quiet -c constraints.txt --no-build-isolation -e .
	@touch $@

$(DEV): $(STAMP)
	$(BIN)/python -m pip install --no-compile --quiet -c constraints.txt --no-build-isolation -e ".[dev]"
	@touch $@ $(STAMP)

clean:
	rm -rf $(VENV) build src/palinode.egg-info

# Two commands for a fresh clone: `make demo` and `make test`. Both build .venv, both are quick the second time.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
# Threads that wait give their core away: a pool that spins crawls on a busy machine.
export OMP_WAIT_POLICY ?= PASSIVE
VENV := .venv
RUN := $(VENV)/bin/python
KPDEFORM := $(VENV)/bin/kpdeform
# Python compiles what it imports; to compile all of torch would take longer than to lint.
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check --no-compile
SAY := @printf '\n== %s\n'

# Without a GPU the CUDA library has nothing to run on: the demo leaves it out, the tests compile it all the same.
HAS_GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
HAS_NVCC := $(shell command -v nvcc)
TORCH ?= $(if $(HAS_GPU),"torch>=2.10",torch==2.13.0)
NATIVE := $(shell find csrc -type f)
SCATTER_WHEELS = $${XDG_CACHE_HOME:-$$HOME/.cache}/kpdeform/wheels

DEMO := runs/demo

.PHONY: help demo test test-slow wheel gpu-check gpu-libraries fuzz sanitize test-aarch64 cuda-registers docs lint format install system clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

$(VENV)/.torch:
	$(SAY) "making $(VENV) with $$($(PYTHON) --version) and torch"
	$(PYTHON) -m venv $(VENV) || { echo "on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PIP) --upgrade pip
	$(PIP) $(TORCH) numpy
	@touch $@

# What compiles csrc.
$(VENV)/.build: $(VENV)/.torch
	$(PIP) "scikit-build-core>=0.10" cmake ninja
	@touch $@

# The package for the demo: CPU kernels, and CUDA kernels where there is a GPU.
$(VENV)/.package: $(VENV)/.build pyproject.toml $(NATIVE)
	@if [ -e $(VENV)/.everything ] && [ -z "$$(find $(NATIVE) pyproject.toml -newer $(VENV)/.everything)" ]; then exit 0; fi; \
	printf '\n== %s\n' "installing kpdeform: compiling csrc, fetching open3d, lightning, laspy"; \
	$(PIP) --no-build-isolation -Ccmake.define.KPDEFORM_CUDA=$(if $(HAS_GPU),ON,OFF) -e ".[viz,train,io]"
	@touch $@

# The package for the tests: CUDA kernels wherever nvcc is, warnings are errors; development tools; torch-scatter.
# Without a GPU, two architectures, the oldest and one with PTX, show that everything compiles.
$(VENV)/.everything: $(VENV)/.build pyproject.toml $(NATIVE)
	$(SAY) "installing kpdeform for tests: compiling csrc (CUDA too where nvcc is found)"
	$(PIP) --no-build-isolation -Ccmake.define.KPDEFORM_CUDA=$(if $(HAS_NVCC),ON,OFF) -Ccmake.define.KPDEFORM_WERROR=ON \
	  $(if $(HAS_GPU),,"-Ccmake.define.CMAKE_CUDA_ARCHITECTURES=75-real;90") -e ".[dev]"
	$(SAY) "torch-scatter: built once (minutes), then taken from $(SCATTER_WHEELS)"
	@tag=$$($(RUN) -c "import sys, torch; print(f'torch{torch.__version__}-python{sys.version_info[0]}.{sys.version_info[1]}')"); \
	wheels=$(SCATTER_WHEELS)/$$tag; \
	ls $$wheels/torch_scatter-*.whl >/dev/null 2>&1 || \
	  $(RUN) -m pip wheel --quiet --no-build-isolation --no-deps torch-scatter -w $$wheels; \
	$(PIP) --no-deps --force-reinstall $$wheels/torch_scatter-*.whl
	@touch $@

# The linters, and torch for the types that mypy reads: nothing is compiled.
$(VENV)/.lint: $(VENV)/.torch pyproject.toml
	$(PIP) --group lint
	@touch $@

# What builds the documentation; the pages are made from the installed package.
$(VENV)/.docs: $(VENV)/.torch pyproject.toml
	$(PIP) --group docs
	@touch $@

install: $(VENV)/.package ## .venv with the package and what scripts need

system: ## Debian packages that Open3D's off-screen pictures need, when they are missing and can be installed
	@scripts/install_system_packages.sh

demo: $(VENV)/.package system ## simulate rooms, train, label unseen rooms, show deformed kernels (runs/demo)
	$(SAY) "1/4  simulating laser scans of furnished rooms"
	@$(KPDEFORM) prepare rooms --split 16 4 --output $(DEMO)/rooms
	$(SAY) "2/4  training a deformable KPFCNN on 16 of them"
	@$(KPDEFORM) train --config rooms --data.root $(DEMO)/rooms \
	  --run $(DEMO) $$(test ! -e $(DEMO)/last.ckpt || echo --resume)
	$(SAY) "3/4  labelling the 4 rooms it never saw, every point"
	@$(KPDEFORM) evaluate --model $(DEMO) --data $(DEMO)/rooms --out $(DEMO)/val --predictions ply
	@cp "$$(ls $(DEMO)/val/*.ply | head -n 1)" $(DEMO)/prediction.ply
	$(SAY) "4/4  looking at its deformed kernels"
	@$(KPDEFORM) view --model $(DEMO) --data $(DEMO)/rooms --output $(DEMO)/kernels.png
	$(SAY) "done: $(DEMO)/val/report.html (scores, and pictures of every room), $(DEMO)/kernels.png, $(DEMO)/prediction.ply"

# Each core runs whole files of tests, because the tests of a file share what they have trained or built.
test: $(VENV)/.everything system ## every test but the slow ones; ragged reductions with and without torch-scatter
	$(SAY) "tests"
	@$(RUN) -m pytest -m "not slow" -n auto --maxprocesses 8 --dist loadfile

test-slow: $(VENV)/.everything $(VENV)/.docs system ## the slow tests
	@$(RUN) -m pytest -m slow

$(VENV)/.wheel: $(VENV)/.build pyproject.toml
	$(PIP) --group wheel
	@touch $@

# The temporary folder needs 8 GB for a torch with CUDA; TMPDIR names another one.
wheel: $(VENV)/.wheel ## CPU wheel and source archive (dist), tried with the releases of torch in TORCHES; TESTS names more tests
	$(SAY) "building dist"
	@PYTHON=$(RUN) scripts/build_wheel.sh
	@PYTHON=$(RUN) TESTS="$(TESTS)" scripts/try_wheel.sh dist/*.whl $(or $(TORCHES),2.10.0 newest)

# Nothing is installed: PYTHON has torch with CUDA, numpy and pytest. The libraries may come from another machine.
gpu-check: ## on a machine with a GPU, in ten minutes: tests, compute-sanitizer, times; STAGES names some of them
	@PYTHON=$(PYTHON) scripts/gpu_check.sh $(STAGES)

gpu-libraries: $(VENV)/.build ## the libraries for gpu-check (build/gpu), compiled for ARCHITECTURES (90); needs nvcc, but no GPU
	@PYTHON=$(RUN) ARCHITECTURES="$(or $(ARCHITECTURES),90)" scripts/gpu_check.sh --build-only

cuda-registers: $(VENV)/.everything ## registers and spills of the CUDA kernels (benchmarks/results/registers.md)
	@$(RUN) scripts/cuda_registers.py > benchmarks/results/registers.md
	@cat benchmarks/results/registers.md

fuzz: $(VENV)/.everything ## random input to ops and readers for MINUTES (60); a finding ends in exit 1
	@$(RUN) -m tests.fuzz --minutes $(or $(MINUTES),60)

sanitize: $(VENV)/.everything ## csrc with AddressSanitizer and UndefinedBehaviorSanitizer: tests of ops, fuzzing for MINUTES (2)
	@PYTHON=$(RUN) MINUTES=$(or $(MINUTES),2) scripts/sanitize.sh

test-aarch64: $(VENV)/.build ## the tests of ops and layers on 64-bit ARM, emulated (Debian); TESTS names others
	@PYTHON=$(RUN) TESTS="$(TESTS)" scripts/test_aarch64.sh

# -E reads every page anew: otherwise Sphinx makes no pages for the names of a new page.
docs: $(VENV)/.package $(VENV)/.docs system ## the documentation site, build/docs/html/index.html; a warning is an error
	$(SAY) "building the site: API pages from docstrings, executed notebooks"
	@$(RUN) -m sphinx -E -q -W --keep-going -d build/docs/doctrees docs build/docs/html
	@echo build/docs/html/index.html

lint: $(VENV)/.lint ## ruff, mypy, clang-format: what pre-commit runs
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' | xargs $(VENV)/bin/clang-format --dry-run --Werror

format: $(VENV)/.lint ## rewrite files in the project's format
	@$(RUN) -m ruff check --fix . ; $(RUN) -m ruff format .
	@git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' | xargs $(VENV)/bin/clang-format -i

clean: ## everything that the commands above made
	rm -rf $(VENV) build runs docs/repository docs/reference/generated

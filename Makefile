# Every target does its own set-up: a virtual environment in .venv, versions from constraints.txt; by uv where it is
# installed, else by venv and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev

VLLM := .venv-vllm
VLLM_BIN := $(VLLM)/bin
VLLM_READY := $(VLLM)/.ready

UV := $(shell command -v uv)
ifeq ($(UV),)
INSTALLER := pip
venv = test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
install = $(1)/bin/python -m pip install --quiet --disable-pip-version-check
else
INSTALLER := uv
venv = test -x $(1)/bin/python || $(UV) venv --quiet --seed --python $(PYTHON) $(1)
install = $(UV) pip install --quiet --python $(1)/bin/python
endif

.PHONY: help demo real test test-slow test-vllm test-package lint docs bench bench-vllm clean

help:
	@echo "make demo       install, then compare strategies, find critical tokens, train on them: the embedded model (minutes)"
	@echo "make real       a real model of 135M parameters: fetched, tuned, compared, its critical tokens (20 minutes)"
	@echo "make test       the test suite without its slow part"
	@echo "make test-slow  that part: whole programs and several processes"
	@echo "make test-vllm  the tests that need vLLM, in an environment of their own"
	@echo "make test-package  wheel and source distribution, each installed in an empty environment and run"
	@echo "make lint       formatting, lint and types"
	@echo "make docs       the documentation as a site, in site/; a dead link is an error"
	@echo "make bench      measure against transformers; writes benchmarks/results/"
	@echo "make bench-vllm the same with vLLM"

# what the demo needs
$(READY): pyproject.toml constraints.txt
	@echo "Making $(VENV) with $(INSTALLER): about 1.6 GB with a CPU build of torch; minutes without a word."
	$(call venv,$(VENV))
	$(call install,$(VENV)) -c constraints.txt -e ".[train,gguf]"
	touch $@

# and what developers need
$(DEV_READY): $(READY)
	@echo "Adding the tools of developers to $(VENV) with $(INSTALLER): about 0.8 GB more."
	$(call install,$(VENV)) -c constraints.txt -e ".[train,gguf,dev,docs]"
	touch $@

$(VLLM_READY): pyproject.toml constraints-vllm.txt
	$(call venv,$(VLLM))
	$(call install,$(VLLM)) --no-deps -r constraints-vllm.txt
	$(call install,$(VLLM)) --no-deps -e .
	touch $@

demo: $(READY)
	$(BIN)/forkpoint eval --task lab --model lab --limit 300 --out runs/demo \
		--strategy greedy --strategy cot-decoding:k=10 --strategy cot-decoding:k=10,aggregate=true \
		--strategy self-consistency:n=10 \
		--strategy sample:temperature=3,top_n_sigma=1 --strategy sample:temperature=3,min_p=0.1 \
		--strategy sample:temperature=3,top_p=0.9
	$(BIN)/forkpoint critical --task lab --model lab --limit 60 --replace --out runs/demo-critical
	$(BIN)/forkpoint run recipes/lab-short.yaml --out runs/demo-training
	@echo "Open report.html of runs/demo, runs/demo-critical and runs/demo-training in a browser."
	@echo "To type forkpoint yourself: . $(BIN)/activate"

real: $(READY)
	$(BIN)/python recipes/real_model.py models/SmolLM2-135M-Instruct
	$(BIN)/forkpoint run recipes/real-steps.yaml --out runs/real
	rm -rf models/SmolLM2-135M-steps
	cp -R runs/real/steps/model models/SmolLM2-135M-steps
	@echo "Open runs/real/report.html and runs/real/critical/report.html in a browser."

test: $(DEV_READY)
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(DEV_READY)
	$(BIN)/pytest -n 2 --dist worksteal -m slow

test-vllm: $(VLLM_READY)
	$(VLLM_BIN)/python -m pytest tests_vllm

test-package: $(DEV_READY)
	.ci/package $(BIN)/python

lint: $(DEV_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(DEV_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(DEV_READY)
	$(BIN)/python benchmarks/bench_samplers.py
	$(BIN)/python benchmarks/bench_engine.py
	$(BIN)/python benchmarks/bench_startup.py
	$(BIN)/python benchmarks/bench_large.py
	$(BIN)/python benchmarks/bench_contrast.py
	$(BIN)/python benchmarks/bench_critical.py
	$(BIN)/python benchmarks/critical_growth.py
	$(BIN)/python benchmarks/bench_preference.py
	$(BIN)/python benchmarks/bench_slm.py

bench-vllm: $(VLLM_READY)
	$(VLLM_BIN)/python benchmarks/bench_vllm.py
	$(VLLM_BIN)/python benchmarks/engines_agree.py

clean:
	rm -rf $(VENV) $(VLLM) runs build site .pytest_cache .mypy_cache .ruff_cache .hypothesis

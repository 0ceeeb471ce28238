# Every target does its own set-up: a virtual environment in .venv, versions from constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP_OPTIONS := --quiet --disable-pip-version-check

VLLM := .venv-vllm
VLLM_BIN := $(VLLM)/bin
VLLM_READY := $(VLLM)/.ready

.PHONY: help demo test test-slow test-vllm lint docs bench bench-vllm clean

help:
	@echo "make demo       install, then compare strategies, find critical tokens, train on them: the embedded model (minutes)"
	@echo "make test       the test suite without its slow part"
	@echo "make test-slow  that part: whole programs and several processes"
	@echo "make test-vllm  the tests that need vLLM, in an environment of their own"
	@echo "make lint       formatting, lint and types"
	@echo "make docs       the documentation as a site, in site/; a dead link is an error"
	@echo "make bench      measure against transformers; writes benchmarks/results/"
	@echo "make bench-vllm the same with vLLM"

# torch first: the version that constraints.txt names, so that nothing else pulls in another build
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV), about 2.4 GB with a CPU build of torch: minutes without a word."
	$(BIN)/pip install $(PIP_OPTIONS) -c constraints.txt torch
	$(BIN)/pip install $(PIP_OPTIONS) -c constraints.txt -e ".[train,dev,docs]"
	touch $@

$(VLLM_READY): pyproject.toml constraints-vllm.txt
	test -x $(VLLM_BIN)/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM_BIN)/pip install $(PIP_OPTIONS) --no-deps -r constraints-vllm.txt
	$(VLLM_BIN)/pip install $(PIP_OPTIONS) --no-deps -e .
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

test: $(READY)
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(READY)
	$(BIN)/pytest -n 2 --dist loadfile -m slow

test-vllm: $(VLLM_READY)
	$(VLLM_BIN)/python -m pytest tests_vllm

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY)
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

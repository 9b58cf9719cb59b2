# make train   train ESM2-8M on the bundled sample
# make test    run the quick tests
# make test-core    run the tests of what depends on torch most; with TORCH=2.7.0 VENV=.venv-torch2.7 on the older one
# make test-sanity  the README's run, five minutes: its loss has a bound
# make test-faults  the slow tests: those that kill, stop and damage things, and many processes
# make test-lowest  what reads and writes people's files, with the oldest packages that pyproject.toml allows
# make lint    linter, formatter and type checker
# make docs    the documentation as a site, in build/docs; its links are checked
# make install the environment alone; make install-wandb, -mlflow, -tensorboard, -spark: with an extra
# make gpu-check   on a GPU: parity tests, and a table of speeds to paste into docs/performance.md
#
# TORCH=2.7.0, which Composer pins, or TORCH=2.11.0, the newest that is tested: by default where there is no GPU, or a
# driver that is new enough for its CUDA. Blackwell cards need it.

VENV ?= .venv
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$python && break; done)
DRIVER := $(shell nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 | cut -d. -f1)
TORCH ?= $(shell [ -z "$(DRIVER)" ] || [ "$(DRIVER)" -ge 580 ] && echo 2.11.0 || echo 2.7.0)
# Torch's minor version and its vision package's are 15 apart.
TORCHVISION = 0.$(shell echo $$(($(word 2,$(subst ., ,$(TORCH))) + 15))).*
UV := VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install --quiet --compile-bytecode

.PHONY: install train test test-core test-sanity test-faults test-lowest lint docs gpu-check
.DEFAULT_GOAL := train

# What takes the place of Composer's pin of torch.
$(VENV)/torch-$(TORCH).txt:
	@test -n "$(PYTHON)" || { echo "error: needs Python 3.10, 3.11 or 3.12; set PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: no venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	$(VENV)/bin/pip install --quiet uv
	@rm -f $(VENV)/torch-*.txt
	@printf 'torch==%s\ntorchvision==%s\n' '$(TORCH)' '$(TORCHVISION)' > $@

# A stamp for each extra, so that a second call installs nothing and a changed pyproject.toml installs again.
$(VENV)/.installed: pyproject.toml $(VENV)/torch-$(TORCH).txt
	$(UV) --override $(VENV)/torch-$(TORCH).txt --editable .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(UV) --override $(VENV)/torch-$(TORCH).txt --editable '.[$*]'
	@touch $@

# In a folder of its own, for the tests that read its folders and have it read ours: the package itself needs 4.
$(VENV)/.installed-transformers5: $(VENV)/.installed-test
	$(UV) --upgrade --target $(VENV)/transformers5 'transformers>=5.6,<6'
	@touch $@

install: $(VENV)/.installed

install-%: $(VENV)/.installed-% ;
.PRECIOUS: $(VENV)/.installed-%

train: install
	$(VENV)/bin/composer train.py yamls/esm2_small.yaml autoresume=true

# One thread a process: most tests wait for imports. A file stays in one process, since its tests share fixtures.
PARALLEL := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile
test: $(VENV)/.installed-transformers5
	$(PARALLEL) -m "not faults and not slow and not alone"
	$(VENV)/bin/python -m pytest -m alone

CORE := tests/model tests/optim tests/data tests/algorithms tests/callbacks tests/hardware tests/checkpoints/test_resume.py \
	tests/run/test_train.py tests/run/test_parallelism.py
test-core: $(VENV)/.installed-transformers5
	$(PARALLEL) -m "not faults and not slow and not alone" $(CORE)

test-sanity: $(VENV)/.installed-transformers5
	$(VENV)/bin/python -m pytest -m slow tests/run/test_sanity.py

test-faults: $(VENV)/.installed-transformers5
	$(VENV)/bin/python -m pytest -m "faults or slow"

LOWEST := .venv-lowest
$(LOWEST)/.installed: pyproject.toml | $(VENV)/.installed
	$(VENV)/bin/uv venv --quiet --clear --python $(VENV)/bin/python $(LOWEST)
	VIRTUAL_ENV=$(LOWEST) $(VENV)/bin/uv pip install --quiet --resolution lowest-direct --editable '.[tensorboard]'
	VIRTUAL_ENV=$(LOWEST) $(VENV)/bin/uv pip install --quiet 'pytest>=8' 'hypothesis>=6' biopython fair-esm==2.0.0
	@touch $@

test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest tests/files tests/config tests/shards/inputs tests/test_cli.py \
	tests/inference/embedding tests/model/weights/test_foreign_folders.py

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/.installed-docs
	$(VENV)/bin/mkdocs build --strict

gpu-check: $(VENV)/.installed-test
	@$(VENV)/bin/python -c 'import torch; raise SystemExit(not torch.cuda.is_available())' \
	|| { echo "error: torch finds no CUDA device" >&2; exit 2; }
	$(VENV)/bin/python -m pytest tests/model
	$(VENV)/bin/python benchmarks/attention.py --tokens 65536
	$(VENV)/bin/python benchmarks/train_step.py --model esm2_150m --proteins 256 --precision bf16 --compile
	$(VENV)/bin/python benchmarks/train_step.py --model esm2_650m --crop 1024 --proteins 32 --precision bf16 --compile
	$(VENV)/bin/python benchmarks/loop.py yamls/cramming.yaml recipe=cramming data.fasta=sample --repeats 1

# make train   train ESM2-8M on the bundled sample
# make test    run the quick tests
# make test-core    run the tests of what depends on torch most; with TORCH=2.7.0 VENV=.venv-torch2.7 on the older one
# make test-sanity  the README's run, five minutes: its loss has a bound
# make test-faults  the slow tests: those that kill, stop and damage things, and many processes
# make test-lowest  what reads and writes people's files, with the oldest packages that pyproject.toml allows
# make lint    linter, formatter and type checker
# make docs    the documentation as a site, in build/docs; its links are checked
# make install the environment alone; make install-wandb, -mlflow, -tensorboard, -spark: with an extra
# make gpu-check   on a GPU: tables to paste into docs/performance.md, short trainings, tests; gpu-check-67m: one stage
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

.PHONY: install train test test-core test-sanity test-faults test-lowest lint docs gpu-check gpu-check-device \
	gpu-check-150m gpu-check-67m gpu-check-loop gpu-check-attention gpu-check-cramming gpu-check-fsdp gpu-check-small \
	gpu-check-650m gpu-check-8m gpu-check-profile gpu-check-candidates gpu-check-tests gpu-check-curves
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

# GPU_PYTHON=python3 takes an environment that has everything, such as one on a machine without network, as it is.
# FASTA and VAL_FASTA: proteins; by default the bundled sample, whose longest has 512 residues.
# CONTENDERS: of train_step.py, by parts of their names; fair-esm's attention does not fit beside the others' batches.
GPU_PYTHON ?= $(VENV)/bin/python
FASTA ?= plm_composer/sample/train.fasta.gz
VAL_FASTA ?= plm_composer/sample/val.fasta.gz
CONTENDERS ?= transformers plain "ours: fast"

# The most telling first, in case time is short. Each stage ends after some minutes, whatever hangs.
GPU_STAGES := 150m 67m loop attention cramming fsdp small 650m 8m profile candidates tests
GPU_SITE := build/gpu_check
on_gpu = PYTHONPATH="$(CURDIR):$(CURDIR)/$(GPU_SITE)$${PYTHONPATH:+:$$PYTHONPATH}" PYTHONUNBUFFERED=1 \
	timeout -k 10 $(1) $(GPU_PYTHON)
gpu_bf16_step = $(call on_gpu,420) benchmarks/train_step.py --fasta $(FASTA) --precision bf16
gpu_step = $(gpu_bf16_step) --compile --implementation $(CONTENDERS) --model
gpu_data = data.fasta=$(FASTA) data.val_fasta=$(VAL_FASTA) data.local=data/gpu_check/$(subst /,_,$(FASTA))
gpu_run = run_name=gpu_check_$(1) autoresume=false save_overwrite=true progress_bar=false

gpu-check: gpu-check-device
	@$(MAKE) --no-print-directory --jobs=1 --keep-going $(addprefix gpu-check-,$(GPU_STAGES))

# What an install would say of the package, which asks for its own version.
GPU_METADATA := $(GPU_SITE)/plm_composer.dist-info/METADATA
$(GPU_METADATA): plm_composer/__init__.py
	@mkdir -p $(@D)
	@sed -n 's/^__version__ = "\(.*\)"/Metadata-Version: 2.1\nName: plm-composer\nVersion: \1/p' $< > $@

gpu-check-device: $(if $(filter $(VENV)/bin/python,$(GPU_PYTHON)),$(VENV)/.installed-test,$(GPU_METADATA))
	@$(GPU_PYTHON) -c 'import torch; raise SystemExit(not torch.cuda.is_available())' \
	|| { echo "error: torch finds no CUDA device" >&2; exit 2; }

gpu-check-150m: gpu-check-device
	$(gpu_step) esm2_150m --crop 512 --proteins 256

gpu-check-67m: gpu-check-device
	$(gpu_step) cramming_67m --crop 512 --proteins 256

gpu-check-650m: gpu-check-device
	$(gpu_step) esm2_650m --crop 1024 --proteins 48

gpu-check-8m: gpu-check-device
	$(gpu_step) esm2_8m --crop 512 --proteins 512

gpu-check-candidates: gpu-check-device
	$(gpu_bf16_step) --compile --candidates --implementation "ours: fast," --model esm2_150m --crop 512 --proteins 256

gpu-check-profile: gpu-check-device
	$(call on_gpu,120) benchmarks/profile_step.py --fasta $(FASTA) --model esm2_150m --proteins 256

gpu-check-loop: gpu-check-device
	$(call on_gpu,240) benchmarks/loop.py yamls/cramming.yaml recipe=cramming global_train_batch_size=512 $(gpu_data) \
	--repeats 1

gpu-check-attention: gpu-check-device
	$(call on_gpu,180) benchmarks/attention.py --fasta $(FASTA) --tokens 65536

gpu-check-cramming: gpu-check-device
	$(call on_gpu,120) train.py yamls/cramming.yaml recipe=cramming budget=75s global_train_batch_size=512 $(gpu_data) \
	$(call gpu_run,cramming)
	@cat runs/gpu_check_cramming/ledger.json; tail -n 2 runs/gpu_check_cramming/metrics.jsonl

gpu-check-fsdp: gpu-check-device
	$(call on_gpu,180) -m composer.cli.launcher -n 1 train.py yamls/esm2_650m.yaml recipe=fsdp max_duration=6ba \
	save_interval=6ba global_train_batch_size=64 $(gpu_data) data.val_split=null $(call gpu_run,fsdp)
	@tail -n 1 runs/gpu_check_fsdp/metrics.jsonl

gpu-check-small: gpu-check-device
	$(call on_gpu,90) -m composer.cli.launcher -n 1 train.py yamls/esm2_small.yaml max_duration=100ba \
	$(call gpu_run,small)
	@tail -n 1 runs/gpu_check_small/metrics.jsonl

gpu-check-tests: gpu-check-device
	$(call on_gpu,240) -m pytest tests/model

# Not among the stages: three trainings of four minutes.
gpu-check-curves: gpu-check-device
	$(call on_gpu,1200) benchmarks/loss_curves.py --train $(FASTA) --val $(VAL_FASTA) --seconds 240 --seeds 1 \
	--json runs/gpu_check_curves.json

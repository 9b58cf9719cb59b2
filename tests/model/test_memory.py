"""Predicted memory against what autograd keeps, and against what a process of the 650M model's shape takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from plm_composer.data.batches import pack, pad
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.memory import Workload, kept_for_backward, predict
from plm_composer.precision import multiplies_bf16

LENGTHS = [50, 120, 30, 90]
BF16 = multiplies_bf16("cpu")
SHORTENED_650M = ESM2Config(num_hidden_layers=2, hidden_size=1280, num_attention_heads=20, intermediate_size=5120)
MEASURE = """
import json, pathlib, sys
import numpy as np, torch
from plm_composer.data.batches import pack
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2

def resident(line):
    # Not getrusage: a process starts with the maximum of the one that forked it.
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(f"{line}:")[1].split()[0]) * 1024

def batch(lengths):
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 24, sum(lengths))
    return pack(ids, np.where(rng.random(len(ids)) < 0.15, ids, -100), np.array(lengths))

config, lengths, checkpointing, bf16 = json.loads(sys.argv[1])
torch.mm(torch.rand(9, 9), torch.rand(9, 9))
before = resident("VmRSS")
model = ESM2(ESM2Config(**config))
model.activation_checkpointing = checkpointing
model = ESM2ComposerModel(model, torch.bfloat16 if bf16 else None)
trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trainable, fused=True)
# A small step makes the optimizer's states; then the one to measure.
for batch in (batch([9]), batch(lengths)):
    optimizer.zero_grad()
    model.loss(model(batch), batch).backward()
    torch.nn.utils.clip_grad_norm_(trainable, 1.0)
    optimizer.step()
print(resident("VmHWM") - before)
"""


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=pytest.mark.skipif(not BF16, reason="no bf16"))])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_knows_what_autograd_keeps(bf16: bool, padded: bool, checkpointing: bool) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 24, sum(LENGTHS))
    labels = np.where(rng.random(len(ids)) < 0.15, ids, -100)
    batch = (pad if padded else pack)(ids, labels, np.array(LENGTHS))
    model = ESM2(ESM2Config(3, 64, 4, 256))
    model.activation_checkpointing = checkpointing
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, Tensor] = {}

    def note(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in parameters:
            saved[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        ESM2ComposerModel(model, torch.bfloat16 if bf16 else None)(batch)
    lengths = [max(LENGTHS)] * len(LENGTHS) if padded else LENGTHS
    workload = Workload(
        lengths,
        mask_rate=float((labels >= 0).sum()) / sum(lengths),
        bf16=bf16,
        padded=padded,
        checkpointing=checkpointing,
    )
    measured = sum(x.untyped_storage().nbytes() for x in saved.values())
    assert measured == pytest.approx(kept_for_backward(model.config, workload), rel=0.06 if checkpointing else 0.01)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tokens", [2048, 6000])
def test_a_process_takes_what_is_predicted(tokens: int, checkpointing: bool) -> None:
    lengths = [500] * (tokens // 500) + [tokens % 500] * (tokens % 500 > 0)
    arguments = json.dumps([SHORTENED_650M.to_mapping(), lengths, checkpointing, BF16])
    # Large blocks go back to the system when they are freed, so that the process holds its tensors and no more.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, arguments], env=environment, capture_output=True, text=True, check=True
    )
    predicted = predict(SHORTENED_650M, Workload(lengths, bf16=BF16, checkpointing=checkpointing))
    assert int(result.stdout) == pytest.approx(predicted.total, rel=0.15)

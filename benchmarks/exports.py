"""How far an export's logits in ``transformers`` are from ours: on real proteins, in padded batches, residues masked.

python benchmarks/exports.py                    # untrained models of the size of ESM2-8M, drawn wide
python benchmarks/exports.py runs/my_run        # a trained one
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tables import print_table, write_json
from transformers import AutoModelForMaskedLM, AutoTokenizer

from plm_composer.errors import run_command
from plm_composer.inference.export import export_model
from plm_composer.inference.load import load_model
from plm_composer.model.config import PRESETS
from plm_composer.model.esm2 import ESM2
from plm_composer.sample import VAL_FASTA
from plm_composer.shards.inputs.fasta import read_fasta
from plm_composer.tokenizer import MASK_ID

COLUMNS = {"model": "model", "logits": "largest logit", "fp32": "largest difference, fp32", "fp64": "fp64"}
VARIANTS: dict[str, dict[str, Any]] = {
    "ESM2": {},
    "recipe cramming": {"qk_norm": True, "short_convolution": 7, "token_dropout_mask_rate": 0.25},
    "RMSNorm, SwiGLU, ALiBi": {
        "normalization": "rmsnorm",
        "feed_forward": "swiglu",
        "position_embedding_type": "alibi",
    },
    "wide heads, no biases": {
        "attention_head_size": 32,
        "qkv_bias": False,
        "intermediate_bias": False,
        "output_bias": False,
        "norm_bias": False,
    },
}
_LONGEST, _MASKED = 300, 7
"""Residues of the longest protein; of which every seventh is masked."""


def models(paths: list[Path]) -> Iterator[tuple[str, ESM2]]:
    """The models to export: those at paths, or one for each of ``VARIANTS``.

    Untrained ones are drawn four times wider than they start, so that every part matters to the logits.
    """
    for path in paths:
        yield str(path), load_model(path)
    for name, changes in {} if paths else VARIANTS.items():
        torch.manual_seed(0)
        model = ESM2(dataclasses.replace(PRESETS["esm2_8m"], initializer_range=0.08, **changes)).eval()
        for parameter_name, parameter in model.named_parameters():
            if "convolution" in parameter_name:  # they start at zero
                torch.nn.init.normal_(parameter, std=0.08)
        yield name, model


@torch.no_grad()
def compare(name: str, model: ESM2, texts: list[str], folder: Path) -> dict[str, Any]:
    """Exports a model, loads it with ``transformers``, and compares logits on all tokens."""
    export_model(model, folder, None, {})
    batch = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)(texts, padding=True, return_tensors="pt")
    tokens, masked = batch["attention_mask"].bool(), torch.zeros_like(batch["input_ids"]).bool()
    masked[:, _MASKED::_MASKED] = True
    ids = batch["input_ids"].masked_fill(masked & (batch["input_ids"] > 3), MASK_ID)
    row: dict[str, Any] = {"model": name}
    for column, dtype in (("fp32", torch.float32), ("fp64", torch.float64)):
        theirs = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True).eval().to(dtype)
        ours = copy.deepcopy(model).to(dtype)
        # One at a time where it is transformers' own EsmForMaskedLM, whose token dropout counts padding in a batch.
        alone = type(theirs).__name__ == "EsmForMaskedLM"
        groups = [(ids[[i]][:, tokens[i]], tokens[[i]][:, tokens[i]]) for i in range(len(ids))] if alone else []
        pairs = [
            (ours(part, attention_mask=mask)[mask], theirs(part, attention_mask=mask.long()).logits[mask])
            for part, mask in groups or [(ids, tokens)]
        ]
        row["logits"] = max(expected.abs().max().item() for expected, _ in pairs)
        row[column] = f"{max((expected - found).abs().max().item() for expected, found in pairs):.1e}"
    return row


def main() -> None:
    """Reads the arguments, exports, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, help="trained models; without any, untrained ones")
    parser.add_argument("--proteins", type=int, default=8, help="number of proteins, all in one batch")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    arguments = parser.parse_args()
    records = itertools.islice(read_fasta(VAL_FASTA), arguments.proteins)
    texts = [residues[:_LONGEST].decode() for _, residues in records]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, model) in enumerate(models(arguments.models)):
            rows.append(compare(name, model, texts, Path(scratch) / f"export{number}"))
    print_table(f"Logits in transformers against ours, {len(texts)} proteins", rows, COLUMNS)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    run_command(main)

"""From proteins to batches: ours against a Dataset as tutorials write it and against Hugging Face's collator.

First all proteins lie in memory, and one process makes batches: real tokens a second per worker. Then the same
proteins lie in shards: what crop, mask and pack add to iterating over a bare StreamingDataset. Repeats are interleaved
and medians reported.

    python benchmarks/loader.py --fasta proteins.fasta.gz --json loader.json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from streaming import StreamingDataset
from tables import print_table, write_json
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import DataCollatorForLanguageModeling, EsmTokenizer

from plm_composer.data.batches import count_tokens
from plm_composer.data.collate import Collator, Protein
from plm_composer.data.masking import Masking
from plm_composer.data.streaming.dataset import StreamingProteinDataset
from plm_composer.hardware.machine import describe_machine
from plm_composer.sample import TRAIN_FASTA
from plm_composer.shards.convert import convert_fasta
from plm_composer.shards.inputs.fasta import read_fasta
from plm_composer.tokenizer import CLS_ID, EOS_ID, IGNORE_INDEX, MASK_ID, PAD_ID, VOCABULARY, encode

MASKING = Masking(0.15, 0.8, 0.1)
COLUMNS = {
    "implementation": "implementation",
    "real_tokens_per_second": "real tokens/s",
    "spread": "min to max",
    "ratio": "ours over it",
}


class TutorialDataset(Dataset[dict[str, Tensor]]):
    """One protein at a time: tokenise, crop, mask with torch's generator, pad to the crop length."""

    def __init__(self, proteins: Sequence[bytes], crop_length: int) -> None:
        self.proteins, self.crop_length = proteins, crop_length

    def __len__(self) -> int:
        return len(self.proteins)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = torch.tensor([CLS_ID, *encode(self.proteins[index]).tolist(), EOS_ID])
        start = int(torch.randint(max(1, len(ids) - self.crop_length + 1), ()))
        ids = ids[start : start + self.crop_length]
        chosen = (torch.rand(len(ids)) < MASKING.mask_rate) & (ids >= 4) & (ids < 24)
        labels = torch.where(chosen, ids, IGNORE_INDEX)
        draw = torch.rand(len(ids))
        inputs = torch.where(chosen & (draw < 0.8), MASK_ID, ids)
        inputs = torch.where(chosen & (draw >= 0.9), torch.randint(4, 24, (len(ids),)), inputs)
        padding = self.crop_length - len(ids)
        return {
            "input_ids": torch.nn.functional.pad(inputs, (0, padding), value=PAD_ID),
            "labels": torch.nn.functional.pad(labels, (0, padding), value=IGNORE_INDEX),
            "attention_mask": torch.nn.functional.pad(torch.ones_like(ids), (0, padding)),
        }


def tutorial_batches(proteins: Sequence[bytes], crop: int, size: int) -> Iterator[int]:
    """Real tokens of each batch of a DataLoader over ``TutorialDataset``."""
    for batch in DataLoader(TutorialDataset(proteins, crop), batch_size=size):
        yield int(batch["attention_mask"].sum())


def huggingface_batches(proteins: Sequence[bytes], crop: int, size: int) -> Iterator[int]:
    """Real tokens of each batch of the tokenizer and ``DataCollatorForLanguageModeling``."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as vocabulary:
        vocabulary.write("\n".join(VOCABULARY))
        vocabulary.flush()
        tokenizer = EsmTokenizer(vocabulary.name)
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKING.mask_rate)
    for start in range(0, len(proteins), size):
        texts = [residues.decode() for residues in proteins[start : start + size]]
        batch = collate([tokenizer(text, truncation=True, max_length=crop) for text in texts])
        yield int(batch["attention_mask"].sum())


def our_batches(proteins: Sequence[bytes], crop: int, size: int) -> Iterator[int]:
    """Real tokens of each of our batches."""
    collate = Collator(crop_length=crop, masking=MASKING)
    for start in range(0, len(proteins), size):
        numbered = [Protein(index, 0, proteins[index]) for index in range(start, min(start + size, len(proteins)))]
        yield count_tokens(collate(numbered))["total"]


IN_MEMORY: dict[str, Callable[[Sequence[bytes], int, int], Iterator[int]]] = {
    "Dataset as in tutorials": tutorial_batches,
    "DataCollatorForLanguageModeling": huggingface_batches,
    "ours": our_batches,
}


def in_memory(proteins: Sequence[bytes], crop: int, size: int, repeats: int) -> list[dict[str, Any]]:
    """Real tokens a second of each way of making batches."""
    speeds: dict[str, list[float]] = {name: [] for name in IN_MEMORY}
    for _ in range(repeats):
        for name, batches in IN_MEMORY.items():
            start = time.perf_counter()
            tokens = sum(batches(proteins, crop, size))
            speeds[name].append(tokens / (time.perf_counter() - start))
    ours = statistics.median(speeds["ours"])
    return [
        {
            "implementation": name,
            "precision": None,
            "crop": crop,
            "real_tokens_per_second": statistics.median(values),
            "spread": f"{min(values):,.0f} to {max(values):,.0f}",
            "ratio": ours / statistics.median(values),
        }
        for name, values in speeds.items()
    ]


def over_streaming(folder: Path, crop: int, size: int, repeats: int) -> list[dict[str, Any]]:
    """What our batches add to iterating over the bare dataset: seconds an epoch, and the share."""
    shared = {"local": str(folder), "split": "train", "batch_size": size, "shuffle": True}
    bare = DataLoader(StreamingDataset(**shared, shuffle_seed=0), batch_size=size, collate_fn=list, drop_last=True)
    ours_set = StreamingProteinDataset(Collator(crop_length=crop, masking=MASKING), **shared)  # type: ignore[arg-type]
    ours: DataLoader[Any] = DataLoader(ours_set, batch_size=size, collate_fn=ours_set.collate, drop_last=True)
    seconds: dict[str, list[float]] = {"bare StreamingDataset": [], "ours": []}
    for _ in range(repeats + 1):
        for name, loader in (("bare StreamingDataset", bare), ("ours", ours)):
            start = time.perf_counter()
            for _batch in loader:
                pass
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    base = medians["bare StreamingDataset"]
    return [
        {"implementation": name, "crop": crop, "seconds": value, "added": f"{value / base - 1:+.0%}"}
        for name, value in medians.items()
    ]


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fasta", type=Path, default=TRAIN_FASTA, help="default: the bundled sample")
    parser.add_argument("--limit", type=int, default=8192, help="proteins to take")
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in a DataLoader's worker
    print(describe_machine())

    proteins = [residues for _, residues in read_fasta(arguments.fasta)]
    order = np.random.default_rng(0).permutation(len(proteins))[: arguments.limit]
    proteins = [proteins[index] for index in order]
    rows = in_memory(proteins, arguments.crop, arguments.batch_size, arguments.repeats)
    print_table(f"In memory, one worker, crop {arguments.crop}, {len(proteins)} proteins", rows, COLUMNS)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "proteins.fasta")
        source.write_bytes(b"".join(b">%d\n%s\n" % (index, residues) for index, residues in enumerate(proteins)))
        convert_fasta([source], Path(scratch, "shards"), val_fraction=0, processes=1, progress=False)
        streamed = over_streaming(Path(scratch, "shards"), arguments.crop, arguments.batch_size, arguments.repeats)
    columns = {"implementation": "from shards", "seconds": "seconds an epoch", "added": "added"}
    print_table("From shards, one worker", streamed, columns)
    write_json(arguments.json, [*rows, *streamed])


if __name__ == "__main__":
    main()

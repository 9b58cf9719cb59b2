"""Embedding a proteome, ours against the others: residues a second, and memory at two sizes.

The same proteins, means of the last layer's residues, the same number of tokens a batch; each implementation runs in a
process of its own. The others get what they do best: `transformers` batches of proteins sorted by length over the whole
set, padded, with an attention mask; and one protein at a time, as bio-embeddings does. Pieces of the set go in turn
through all of them, so that a machine that slows down slows all of them down; medians over pieces are reported.

    python benchmarks/embed.py --fasta proteins.fasta.gz --proteins 2000 --json embed.json
    python benchmarks/embed.py --memory 35000 350000      # peak memory of `plm embed` with a tiny model
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from machine import best_device, timed
from tables import print_table, write_json
from transformers import EsmModel

from plm_composer.hardware.machine import describe_machine, prepare_cpu
from plm_composer.inference.embedding.compute import embed_proteins
from plm_composer.inference.embedding.request import Request
from plm_composer.model.config import PRESETS, ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, group_by_tokens, prepared, tokenize
from plm_composer.model.weights.huggingface_folder import save_huggingface
from plm_composer.sample import TRAIN_FASTA
from plm_composer.shards.inputs.fasta import read_fasta
from plm_composer.tokenizer import PAD_ID

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
COLUMNS = {
    "implementation": "implementation",
    "precision": "precision",
    "residues_per_second": "residues/s",
    "spread": "min to max",
    "ratio": "over transformers, sorted",
    "ratio_to_fp32": "over it in fp32",
    "ratio_to_single": "over one by one",
}
SORTED, SINGLE, OURS = "transformers, sorted", "transformers, one by one", "ours"
_CUT = 30
"""Residues of the proteins whose number memory may not depend on: a part has a bound on residues anyway."""
Embed = Callable[[Sequence[bytes]], object]


@dataclasses.dataclass(frozen=True)
class Contender:
    """One implementation in one precision."""

    implementation: str
    precision: str
    folder: Path
    batch_tokens: int

    def prepare(self, device: torch.device) -> Embed:
        """Loads the model; what it returns embeds some proteins."""
        autocast = None if self.precision == "fp32" else DTYPES[self.precision]
        if self.implementation == OURS:
            from plm_composer.inference.load import load_model

            if device.type == "cpu":
                prepare_cpu()
            model, place = load_model(self.folder), Place(str(device), autocast, self.batch_tokens)
            context = prepared(model, place)
            context.__enter__()  # for as long as the process lives
            return lambda proteins: (context, embed_proteins(model, proteins, Request(window=0), place, lambda _: None))
        theirs = EsmModel.from_pretrained(self.folder, add_pooling_layer=False).eval().to(device)
        tokens = 1 if self.implementation == SINGLE else self.batch_tokens
        return lambda proteins: embed_padded(theirs, proteins, tokens, device, autocast)


@torch.inference_mode()
def embed_padded(
    model: Any, proteins: Sequence[bytes], batch_tokens: int, device: torch.device, autocast: torch.dtype | None
) -> npt.NDArray[np.float32]:
    """Means of padded batches, masked; the proteins are sorted by length."""
    tokens = [tokenize(protein) for protein in proteins]
    lengths = [len(each) for each in tokens]
    means = np.empty((len(proteins), model.config.hidden_size), dtype=np.float32)
    for group in group_by_tokens(lengths, batch_tokens):
        ids = torch.full((len(group), max(lengths[index] for index in group)), PAD_ID)
        for row, index in enumerate(group):
            ids[row, : lengths[index]] = torch.from_numpy(tokens[index])
        ids = ids.to(device)
        mask = (ids != PAD_ID).long()
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        counts = torch.tensor([lengths[index] - 2 for index in group], device=device)
        inside = mask.clone()
        inside[:, 0] = 0
        inside[torch.arange(len(group)), counts + 1] = 0
        sums = (hidden.float() * inside[..., None]).sum(1)
        means[group] = (sums / counts[:, None]).cpu().numpy()
    return means


def serve(contender: Contender, pieces: Sequence[Sequence[bytes]], connection: Connection) -> None:
    """A contender's process: embeds a piece whenever it is asked for one."""
    device = best_device()
    run = contender.prepare(device)
    connection.send(None)
    while (piece := connection.recv()) is not None:
        connection.send(timed(lambda piece=piece: run(pieces[piece]), device))  # type: ignore[misc]


def race(field: Sequence[Contender], pieces: Sequence[Sequence[bytes]], repeats: int) -> list[list[float]]:
    """Sends the pieces in turn through all contenders, after a first piece that does not count.

    Returns:
        For each contender, residues a second on each piece.
    """
    context = multiprocessing.get_context("spawn")
    runners = []
    for contender in field:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(contender, pieces, theirs), daemon=True)
        process.start()
        ours.recv()
        runners.append((process, ours))
    speeds: list[list[float]] = [[] for _ in field]
    for turn, piece in enumerate([0, *list(range(len(pieces))) * repeats]):
        for index, (_, connection) in enumerate(runners):
            connection.send(piece)
            seconds = connection.recv()
            if turn:
                speeds[index].append(sum(map(len, pieces[piece])) / seconds)
    for process, connection in runners:
        connection.send(None)
        process.join()
    return speeds


def make_rows(field: Sequence[Contender], speeds: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Medians, and medians of the ratios on each piece."""
    by_name = {(one.implementation, one.precision): each for one, each in zip(field, speeds, strict=True)}

    def ratio(each: Sequence[float], implementation: str, precision: str) -> float | None:
        others = by_name.get((implementation, precision))
        return statistics.median(a / b for a, b in zip(each, others, strict=True)) if others else None

    return [
        {
            "implementation": one.implementation,
            "precision": one.precision,
            "residues_per_second": statistics.median(each),
            "spread": f"{min(each):,.0f} to {max(each):,.0f}",
            "ratio": ratio(each, SORTED, one.precision),
            "ratio_to_fp32": ratio(each, SORTED, "fp32"),
            "ratio_to_single": ratio(each, SINGLE, one.precision),
        }
        for one, each in zip(field, speeds, strict=True)
    ]


def cut_pieces(proteins: Sequence[bytes], count: int, batch_tokens: int) -> list[list[bytes]]:
    """Cuts the proteins, sorted by length, into pieces of whole batches: padding is that of the whole set, sorted."""
    groups = list(group_by_tokens([len(each) + 2 for each in proteins], batch_tokens))
    # Each piece has batches of all lengths.
    return [[proteins[index] for group in groups[start::count] for index in group] for start in range(count)]


def measure_memory(sizes: Sequence[int], fasta: Path) -> list[dict[str, Any]]:
    """Peak memory of ``plm embed`` on sets of some sizes, with a model so small that the set is all that grows."""
    records = list(read_fasta(fasta))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        save_huggingface(ESM2(ESM2Config(1, 64, 4, 64)), scratch / "model")
        for size in sizes:
            with (scratch / "x.fasta").open("wb") as file:
                for index in range(size):
                    header, residues = records[index % len(records)]
                    file.write(b">%d %s\n%s\n" % (index, header.encode(), residues[:_CUT]))
            command = ["embed", "model", "x.fasta", "--out", "x.h5", "--dtype", "float16", "--device", "cpu"]
            script = "import resource, sys; from plm_composer.cli import app; app(sys.argv[1:], standalone_mode=False);"
            script += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
            result = subprocess.run(
                [sys.executable, "-c", script, *command], cwd=scratch, stdout=subprocess.PIPE, text=True, check=True
            )
            rows.append({"proteins": size, "memory_mb": int(result.stdout.split()[-1]) / 1e3})
    return rows


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=list(PRESETS), default="esm2_8m")
    parser.add_argument("--fasta", type=Path, default=TRAIN_FASTA, help="default: the bundled sample, 40 to 512 long")
    parser.add_argument("--proteins", type=int, default=500, help="this many, from all over the file")
    parser.add_argument("--longest", type=int, default=1022, help="leave out longer proteins")
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[16384])
    parser.add_argument("--pieces", type=int, default=5, help="pieces of the set that are timed each on its own")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--precision", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--implementation", nargs="+", choices=[SORTED, SINGLE, OURS], default=[SORTED, SINGLE, OURS])
    parser.add_argument("--memory", type=int, nargs="+", help="instead: peak memory at these numbers of proteins")
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    print(describe_machine(), flush=True)
    if arguments.memory:
        rows = measure_memory(arguments.memory, arguments.fasta)
        print_table(
            f"plm embed, means of proteins of {_CUT} residues",
            rows,
            {"proteins": "proteins", "memory_mb": "peak memory, MB"},
        )
        write_json(arguments.json, rows)
        return
    everything = [protein for _, protein in read_fasta(arguments.fasta) if len(protein) <= arguments.longest]
    chosen = np.random.default_rng(0).choice(len(everything), min(arguments.proteins, len(everything)), replace=False)
    proteins = [everything[index] for index in chosen]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        torch.manual_seed(0)
        save_huggingface(ESM2(PRESETS[arguments.model]), Path(name))
        for batch_tokens in arguments.batch_tokens:
            field = [
                Contender(implementation, precision, Path(name), batch_tokens)
                for precision in arguments.precision
                for implementation in arguments.implementation
            ]
            pieces = [piece for piece in cut_pieces(proteins, arguments.pieces, batch_tokens) if piece]
            study = make_rows(field, race(field, pieces, arguments.repeats))
            mean = np.mean([len(protein) for protein in proteins])
            title = f"{arguments.model}, {len(proteins)} proteins of {mean:.0f} residues on average, "
            print_table(f"{title}{batch_tokens} tokens a batch", study, COLUMNS)
            rows += [{**row, "batch_tokens": batch_tokens} for row in study]
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()

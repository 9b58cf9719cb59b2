"""FASTA to MDS shards: ours against Biopython with MDSWriter and against ``datasets`` with MDSWriter.

The input is synthetic, with lengths like UniRef50's, plain and compressed; everyone writes the same: one column of
bytes, zstd:3, xxh64. Each run is a process of its own, which imports what it needs and nothing else; runs are
interleaved and medians reported. Speed counts from the start of the process, as a user would with a stopwatch; the last
column leaves the start and the imports out.

    python benchmarks/convert.py --proteins 1000000 --json convert.json
"""

from __future__ import annotations

import argparse
import gzip
import io
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from tables import print_table, write_json

MDS: dict[str, Any] = {
    "columns": {"sequence": "bytes"},
    "compression": "zstd:3",
    "hashes": ["xxh64"],
    "size_limit": 1 << 25,
}
LENGTH_MEAN, LENGTH_SIGMA = 5.35, 0.75
"""Of the lengths' logarithm: a median of 210 residues and a mean of 280, as in UniRef50."""
COLUMNS = {
    "implementation": "implementation",
    "input": "input",
    "proteins_per_second": "proteins/s",
    "mb_per_second": "MB of FASTA/s",
    "cpu_seconds": "CPU seconds",
    "peak_memory_mb": "peak memory, MB",
    "ratio": "over Biopython",
    "start_seconds": "start, s",
    "ratio_without_start": "over Biopython without starts",
}
Convert = Callable[[Path, Path], None]


def biopython() -> Convert:
    """Biopython's fast parser, MDSWriter."""
    from Bio.SeqIO.FastaIO import SimpleFastaParser
    from streaming import MDSWriter

    def convert(source: Path, out: Path) -> None:
        with _open_text(source) as file, MDSWriter(out=str(out), **MDS) as writer:
            for _, sequence in SimpleFastaParser(file):
                writer.write({"sequence": sequence.encode()})

    return convert


def huggingface() -> Convert:
    """A ``datasets`` Dataset from a generator, read row by row into MDSWriter, as llm-foundry's script does."""
    from Bio.SeqIO.FastaIO import SimpleFastaParser
    from datasets import Dataset, Features, Value, disable_progress_bars
    from streaming import MDSWriter

    def convert(source: Path, out: Path) -> None:
        def rows() -> Any:
            with _open_text(source) as file:
                for _, sequence in SimpleFastaParser(file):
                    yield {"sequence": sequence}

        disable_progress_bars()
        with tempfile.TemporaryDirectory() as cache:
            features = Features({"sequence": Value("string")})
            table = Dataset.from_generator(rows, features=features, cache_dir=cache)
            with MDSWriter(out=str(out), **MDS) as writer:
                for row in table:
                    writer.write({"sequence": row["sequence"].encode()})

    return convert


def ours(processes: int) -> Convert:
    """Our converter with so many processes, all rules and checks on."""
    from plm_composer.shards.convert import convert_fasta

    def convert(source: Path, out: Path) -> None:
        convert_fasta([source], out, processes=processes, progress=False)

    return convert


IMPLEMENTATIONS: dict[str, Callable[[], Convert]] = {
    "Biopython + MDSWriter": biopython,
    "datasets + MDSWriter": huggingface,
    "ours, 1 process": partial(ours, 1),
    "ours, 2 processes": partial(ours, 2),
}
"""Each imports what it needs and returns the conversion."""


def _open_text(source: Path) -> Any:
    return io.TextIOWrapper(gzip.open(source)) if source.suffix == ".gz" else source.open()


def write_fasta(folder: Path, proteins: int) -> list[Path]:
    """Writes the synthetic input, plain and compressed: 60 residues a line, one in 10,000 of them unknown."""
    from isal import igzip

    random = np.random.default_rng(0)
    letters = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC", np.uint8)
    frequencies = np.array(
        [9.9, 8.3, 7.1, 6.9, 6.6, 6.2, 5.5, 5.5, 5.9, 5.4, 4.9, 5.8, 3.9, 4.1, 3.9, 2.9, 2.4, 2.3, 1.1, 1.4]
    )
    drawn = random.choice(letters, 1 << 24, p=frequencies / frequencies.sum())
    drawn[random.random(len(drawn)) < 1e-4] = ord("X")
    pool = drawn.tobytes()
    lengths = np.clip(random.lognormal(LENGTH_MEAN, LENGTH_SIGMA, proteins).astype(int), 20, 30_000)
    starts = random.integers(0, len(pool) - 30_000, proteins)
    plain, packed = folder / "proteins.fasta", folder / "proteins.fasta.gz"
    with plain.open("wb") as file, igzip.open(packed, "wb") as compressed:
        for index, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            residues = pool[start : start + length]
            lines = b"\n".join(residues[at : at + 60] for at in range(0, length, 60))
            record = b">UniRef50_%08d Uncharacterized protein n=1 Tax=synthetic\n%s\n" % (index, lines)
            file.write(record)
            compressed.write(record)
    return [plain, packed]


def _run(name: str, source: Path, out: Path, connection: Connection) -> None:
    convert = IMPLEMENTATIONS[name]()
    start = time.monotonic()
    convert(source, out)
    connection.send({"start": start, "end": time.monotonic(), "memory": _peak_memory()})


def _peak_memory() -> float:
    """Most memory of this process, and of the largest one that it started and waited for, MB."""
    # `ru_maxrss` of a process itself is no help: it starts with what its parent had.
    (own,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return (int(own.split()[1]) + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1e3


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(name: str, source: Path, folder: Path) -> dict[str, float]:
    """One conversion in a process of its own.

    Returns:
        ``seconds`` from the start of the process to the end of the conversion and ``start`` up to its beginning,
        ``cpu`` seconds of that process and all that it waited for, ``memory`` in MB.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        process = context.Process(target=_run, args=(name, source, Path(scratch, "out"), sender))
        cpu_before, before = _cpu_of_children(), time.monotonic()
        process.start()
        sender.close()
        result: dict[str, float] = receiver.recv()
        process.join()
    return {
        "seconds": result["end"] - before,
        "start": result["start"] - before,
        "cpu": _cpu_of_children() - cpu_before,
        "memory": result["memory"],
    }


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--proteins", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    # Brings torch along, which the processes that are measured must not have.
    from plm_composer.hardware.machine import describe_machine

    print(describe_machine())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sources = write_fasta(folder, arguments.proteins)
        for source in sources:
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in IMPLEMENTATIONS}
            for _ in range(arguments.repeats):
                for name, measured in runs.items():
                    measured.append(measure(name, source, folder))
            rows += make_rows(source, sources[0].stat().st_size, arguments.proteins, runs)
    print_table(f"{arguments.proteins:,} synthetic proteins", rows, COLUMNS)
    write_json(arguments.json, rows)


def make_rows(source: Path, size: int, proteins: int, runs: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Medians, and ratios over the first implementation."""
    seconds = {name: statistics.median(run["seconds"] for run in measured) for name, measured in runs.items()}
    started = {name: statistics.median(run["seconds"] - run["start"] for run in runs[name]) for name in runs}
    reference, reference_started = next(iter(seconds.values())), next(iter(started.values()))
    return [
        {
            "implementation": name,
            "input": ".gz" if source.suffix == ".gz" else "plain",
            "proteins_per_second": proteins / seconds[name],
            "mb_per_second": size / 1e6 / seconds[name],
            "cpu_seconds": statistics.median(run["cpu"] for run in measured),
            "peak_memory_mb": max(run["memory"] for run in measured),
            "ratio": reference / seconds[name],
            "start_seconds": statistics.median(run["start"] for run in measured),
            "ratio_without_start": reference_started / started[name],
        }
        for name, measured in runs.items()
    ]


if __name__ == "__main__":
    main()

"""What tests share: real proteins, small shards, and the repository's own files."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from object_store import ObjectStore, serve
from streaming import MDSWriter

from plm_composer.sample import TRAIN_FASTA, VAL_FASTA
from plm_composer.shards.convert import convert_fasta
from plm_composer.shards.fasta import read_fasta

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout, whose YAMLs and commands are tested as they are."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder of real proteins that is not part of the project: ``PLM_COMPOSER_TEST_DATA``, or beside the checkout."""
    folder = Path(os.environ.get("PLM_COMPOSER_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no test data: set PLM_COMPOSER_TEST_DATA")
    return folder


WriteShards = Callable[..., Path]


@pytest.fixture
def write_shards(tmp_path: Path) -> WriteShards:
    """Writes proteins as one split, in many small shards."""

    def write(
        proteins: Iterable[bytes],
        name: str = "shards",
        split: str = "train",
        size: int = 1 << 12,
        compression: str | None = "zstd:3",
        hashes: Sequence[str] = ("xxh64",),
    ) -> Path:
        folder = tmp_path / name
        with MDSWriter(
            out=str(folder / split),
            columns={"sequence": "bytes"},
            compression=compression,
            hashes=list(hashes),
            size_limit=size,
        ) as writer:
            for residues in proteins:
                writer.write({"sequence": residues})
        return folder

    return write


TEST_TOKEN = "hunter2-hunter2"
"""A secret in the environment of every command; nothing that a run leaves may hold it."""

Run = Callable[..., subprocess.CompletedProcess[str]]


def run_in(
    folder: Path, *command: str | Path, timeout: float = 300, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command of the project as a user would, in a folder, with this interpreter's environment."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
        "PLM_TEST_TOKEN": TEST_TOKEN,
        **(variables or {}),
    }
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture
def run_command(tmp_path: Path) -> Run:
    """Runs a command of the project as a user would, in a scratch folder."""
    return functools.partial(run_in, tmp_path)


BATCHES_OF_AN_EPOCH = 15


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scratch folder with ``shards/`` of few real proteins: an epoch of ``TINY`` is 15 batches."""
    scratch = tmp_path_factory.mktemp("small")
    for split, path, count in (("train", TRAIN_FASTA, 16 * BATCHES_OF_AN_EPOCH), ("val", VAL_FASTA, 24)):
        records = itertools.islice(read_fasta(path), count)
        (scratch / f"{split}.fasta").write_text("".join(f">{name}\n{protein.decode()}\n" for name, protein in records))
    convert_fasta(
        [scratch / "train.fasta"], scratch / "shards", val_inputs=[scratch / "val.fasta"], processes=1, progress=False
    )
    return scratch


TINY = (
    "model.num_hidden_layers=2",
    "model.hidden_size=32",
    "model.num_attention_heads=4",
    "model.intermediate_size=128",
    "data.crop_length=64",
    "data.num_workers=0",
    "global_train_batch_size=16",
    "scheduler.t_warmup=2ba",
    "max_duration=6ba",
    "save_interval=2ba",
    "eval_interval=3ba",
    "eval_subset_num_batches=1",
    "progress_bar=false",
    "precision=fp32",
)
"""Overrides that make any of the project's runs one of seconds, with the same numbers on any CPU."""


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Overrides that make any of the project's runs one of seconds."""
    return TINY


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A tiny run on the bundled sample, trained by the command that the README shows."""

    scratch: Path
    folder: Path
    output: str


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Trains once a session."""
    scratch = tmp_path_factory.mktemp("finished")
    result = run_in(
        scratch, "composer", REPOSITORY / "train.py", REPOSITORY / "yamls" / "esm2_small.yaml", *TINY,
        "save_num_checkpoints_to_keep=-1", "loggers.tensorboard={}",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return FinishedRun(scratch, scratch / "runs" / "esm2_small", result.stdout)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An S3 server for the session."""
    with serve(tmp_path_factory.mktemp("object_store")) as store:
        yield store

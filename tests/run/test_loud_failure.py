"""What goes wrong with shards in an object store ends the run, on every process, and names the shard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from plm_composer.sample import TRAIN_FASTA
from plm_composer.shards.inputs.fasta import read_fasta
from tests.commands import WriteShards
from tests.object_store import ObjectStore

pytestmark = pytest.mark.faults

SECONDS_TO_GIVE_UP = 60
"""After the retries."""


def _upload(store: ObjectStore, folder: Path, url: str) -> list[str]:
    """Uploads shards; gives their names."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.write(f"{url}/{path.relative_to(folder)}", path.read_bytes())
    return [name for name in store.names(url) if "shard" in name]


def _remove(store: ObjectStore, url: str) -> None:
    store.remove(url)


def _truncate(store: ObjectStore, url: str) -> None:
    store.write(url, store.read(url)[:-9])


def _flip(store: ObjectStore, url: str) -> None:
    content = bytearray(store.read(url))
    content[len(content) // 2] ^= 1
    store.write(url, bytes(content))


class Run:
    """A run from the store, with a folder of its own, started and not waited for."""

    def __init__(
        self,
        store: ObjectStore,
        repository: Path,
        folder: Path,
        url: str,
        workers: int,
        ranks: int,
        tiny: tuple[str, ...],
    ) -> None:
        self.folder = folder
        overrides = [
            *tiny, f"data.remote={url}", "data.local=cache", "data.val_split=null", "eval_interval=0", "export=false",
            f"data.num_workers={workers}", "data.predownload=16", "data.download_retry=1", "data.download_timeout=3",
            "max_duration=1000ba", "save_folder=null", "data.prefetch_factor=2",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            [
                Path(sys.executable).with_name("composer"), "-n", str(ranks), repository / "train.py",
                repository / "yamls" / "esm2_small.yaml", *overrides,
            ],
            cwd=folder,
            env={
                **os.environ, **store.environment, "OMP_NUM_THREADS": "1",
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip

    def batches(self) -> int:
        """Batches trained so far."""
        metrics = self.folder / "runs" / "esm2_small" / "metrics.jsonl"
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    def outcome(self, seconds: float) -> tuple[int, str]:
        """Exit code and output; fails if it takes longer."""
        try:
            output, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            pytest.fail(f"still running:\n{self.process.communicate()[0][-3000:]}")
        return self.process.returncode, output


TOPOLOGIES = [(0, 1), (2, 1), (0, 2), (2, 2)]


@pytest.mark.parametrize(("workers", "ranks"), TOPOLOGIES)
@pytest.mark.parametrize("damage", [_remove, _truncate, _flip])
def test_a_damaged_shard_ends_the_run_on_every_process(
    object_store: ObjectStore,
    write_shards: WriteShards,
    repository: Path,
    tmp_path: Path,
    tiny: tuple[str, ...],
    damage: Callable[[ObjectStore, str], None],
    workers: int,
    ranks: int,
) -> None:
    proteins = [residues for _, residues in read_fasta(TRAIN_FASTA)][:512]
    url = f"{object_store.make_bucket('faults')}/{tmp_path.name}"
    shard = _upload(object_store, write_shards(proteins, size=1 << 14), url)[5]
    damage(object_store, f"{url}/{shard}")
    code, output = Run(object_store, repository, tmp_path, url, workers, ranks, tiny).outcome(180)
    assert code != 0
    assert f"error: shard {url}/{shard}: " in output, output
    assert "Traceback" not in output


@pytest.mark.parametrize(("workers", "ranks"), TOPOLOGIES)
def test_a_store_that_stops_answering_ends_the_run(
    object_store: ObjectStore,
    write_shards: WriteShards,
    repository: Path,
    tmp_path: Path,
    tiny: tuple[str, ...],
    workers: int,
    ranks: int,
) -> None:
    proteins = [residues for _, residues in read_fasta(TRAIN_FASTA)]
    url = f"{object_store.make_bucket('faults')}/{tmp_path.name}"
    _upload(object_store, write_shards(proteins, size=1 << 14), url)
    run = Run(object_store, repository, tmp_path, url, workers, ranks, tiny)
    while run.batches() < 3:
        assert run.process.poll() is None, run.outcome(10)[1]
        time.sleep(0.005)
    with object_store.silent():
        code, output = run.outcome(SECONDS_TO_GIVE_UP + 3 * 3)
    assert code != 0
    assert f"error: shard {url}/train/shard." in output
    assert "Traceback" not in output


def test_another_schema_is_one_line(
    object_store: ObjectStore, write_shards: WriteShards, repository: Path, tmp_path: Path, tiny: tuple[str, ...]
) -> None:
    folder = write_shards([b"MKV"] * 64)
    index = json.loads((folder / "train" / "index.json").read_text())
    for shard in index["shards"]:
        shard["column_names"] = ["text"]
    (folder / "train" / "index.json").write_text(json.dumps(index))
    url = f"{object_store.make_bucket('faults')}/{tmp_path.name}"
    _upload(object_store, folder, url)
    code, output = Run(object_store, repository, tmp_path, url, 0, 1, tiny).outcome(120)
    assert code != 0
    assert f"error: the dataset {url} has the columns text but no 'sequence'" in output

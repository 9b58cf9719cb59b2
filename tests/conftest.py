"""What tests share: real proteins, small shards, and the repository's own files."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from streaming import MDSWriter

from plm_composer.sample import TRAIN_FASTA, VAL_FASTA
from plm_composer.shards.convert import convert_fasta
from plm_composer.shards.inputs.fasta import read_fasta
from tests.commands import REPOSITORY, TINY, Run, WriteShards, run_in
from tests.disks import Disk, SmallDisk, mount_disk
from tests.object_store import ObjectStore, serve


def pytest_make_parametrize_id(val: object) -> str | None:
    """Names binary cases by their length: what gzip writes has the time in it, and processes must agree on names."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


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


@pytest.fixture(scope="session")
def modules_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the code that ``transformers`` copies from the folders of models in a folder of these tests."""
    import transformers.dynamic_module_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Mounts a disk of the size that it is asked for."""
    mounted: list[Disk] = []

    def mount(size: str) -> Disk:
        mounted.append(mount_disk(tmp_path / f"disk{len(mounted)}", size))
        return mounted[-1]

    yield mount
    for disk in mounted:
        disk.remove()


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An S3 server for the session."""
    with serve(tmp_path_factory.mktemp("object_store")) as store:
        yield store

"""Files of embeddings hold whatever a FASTA has, and others can read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet
import pytest
from safetensors import safe_open

from plm_composer.errors import UserError
from plm_composer.inference.embedding.formats import ENDINGS, check_output, load_embeddings, save_embeddings
from plm_composer.inference.embedding.in_memory import Embeddings
from tests.disks import SmallDisk

NAMES = ["a", "b é"]
MEANS = Embeddings(np.array([[1] * 4, [0] * 4], np.float32))
RESIDUES = Embeddings(np.arange(20, dtype=np.float32).reshape(5, 4), np.array([0, 2, 5]))
LAYERS = Embeddings(np.arange(24, dtype=np.float16).reshape(2, 3, 4), layers=(0, 5, 6))
RESIDUES_OF_LAYERS = Embeddings(np.arange(40, dtype=np.float16).reshape(5, 2, 4), np.array([0, 2, 5]), (3, 1))


@pytest.mark.parametrize("suffix", ENDINGS)
@pytest.mark.parametrize(
    "embeddings", [MEANS, RESIDUES, LAYERS, RESIDUES_OF_LAYERS], ids=["means", "residues", "layers", "both"]
)
def test_files_read_back(suffix: str, embeddings: Embeddings, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    save_embeddings(path, NAMES, embeddings)
    names, read = load_embeddings(path)
    assert names == NAMES
    assert read.layers == embeddings.layers
    assert read.values.dtype == embeddings.values.dtype
    for found, expected in zip(read, embeddings, strict=True):
        assert found.tolist() == expected.tolist()
    assert list(tmp_path.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_others_read_plain_arrays(tmp_path: Path) -> None:
    for suffix in ENDINGS:
        save_embeddings(tmp_path / f"x{suffix}", NAMES, RESIDUES)
    with np.load(tmp_path / "x.npz") as file:
        assert sorted(file) == ["embeddings", "names", "offsets"]
        assert bytes(file["names"]).decode().split("\n") == NAMES
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        assert sorted(file.keys()) == ["embeddings", "names", "offsets"]
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["names"].asstr()[:].tolist() == NAMES
        assert file["embeddings"][2:5].tolist() == RESIDUES[1].tolist()
        assert file["offsets"][:].tolist() == [0, 2, 5]
    table = pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert [(row["name"], row["length"]) for row in table] == [("a", 2), ("b é", 3)]
    assert table[1]["embedding"] == RESIDUES[1].tolist()
    save_embeddings(tmp_path / "x.parquet", NAMES, LAYERS)
    table = pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert list(table[0]) == ["name", "length", "embedding_0", "embedding_5", "embedding_6"]
    assert (table[1]["length"], table[1]["embedding_5"]) == (None, LAYERS[1][1].tolist())


@pytest.mark.parametrize("suffix", ENDINGS)
def test_a_long_header_costs_its_own_length(suffix: str, tmp_path: Path) -> None:
    names = ["x" * 1_000_000, *(f"protein {index}" for index in range(10_000))]
    path = tmp_path / f"x{suffix}"
    save_embeddings(path, names, Embeddings(np.zeros((len(names), 2), np.float32)))
    assert path.stat().st_size < 2_000_000
    assert load_embeddings(path)[0] == names


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_million_proteins_are_written_and_read(suffix: str, tmp_path: Path) -> None:
    count = 1_000_000
    names = [f"UniRef100_A0A{index:07d} Uncharacterized protein n=1 Tax=Bacteria sp. isolate" for index in range(count)]
    path = tmp_path / f"x{suffix}"
    each = Embeddings(np.zeros((2 * count, 1), np.float32), np.arange(0, 2 * count + 1, 2))
    save_embeddings(path, names, each)
    read_names, read = load_embeddings(path)
    assert read_names == names
    assert read[count - 1].shape == (2, 1)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.npz").symlink_to("real/x.npz")
    save_embeddings(tmp_path / "link.npz", NAMES, MEANS)
    assert (tmp_path / "link.npz").is_symlink()
    assert load_embeddings(tmp_path / "real" / "x.npz")[0] == NAMES


def test_names_that_a_format_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has a line end"):
        save_embeddings(tmp_path / "x.npz", ["a", "b\nc"], MEANS)
    odd = ["", "\0\u2028 \U0001f9ec"]
    with pytest.raises(UserError, match=r"has a NUL, which \.h5 cannot hold"):
        save_embeddings(tmp_path / "x.h5", odd, MEANS)
    for suffix in (".npz", ".safetensors", ".parquet"):
        save_embeddings(tmp_path / f"x{suffix}", odd, MEANS)
        assert load_embeddings(tmp_path / f"x{suffix}")[0] == odd


def test_a_folder_that_takes_no_files_is_told_first() -> None:
    with pytest.raises(UserError, match=r"/proc/x\.npz: cannot be written"):
        check_output(Path("/proc/x.npz"))


@pytest.mark.parametrize("name", ["none/a.npz", "a.txt", "folder.npz", "file/a.npz"])
def test_an_output_that_cannot_be_written_is_told_first(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"there is no folder|must end in|is a folder"):
        check_output(tmp_path / name)


@pytest.mark.parametrize("suffix", ENDINGS)
def test_a_full_disk_is_one_line_and_leaves_nothing(suffix: str, small_disk: SmallDisk) -> None:
    disk = small_disk("2M")
    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        save_embeddings(disk.path / f"x{suffix}", NAMES, Embeddings(np.zeros((2, 1 << 20), np.float32)))
    assert list(disk.path.iterdir()) == []

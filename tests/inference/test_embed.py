"""Embeddings against transformers', and files of them that hold whatever a FASTA has."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, EsmModel

from plm_composer.errors import UserError
from plm_composer.inference.embed import (
    Embeddings,
    check_output,
    check_space,
    embed,
    load_embeddings,
    save_embeddings,
)
from plm_composer.inference.load import load_trained
from tests.disks import SmallDisk

PROTEINS = [b"MKVLLA", b"M", b"ACDEFGHIKLMNPQRSTVWYXBZ", b"GGG"]
NAMES = ["a", "b é"]
MEANS = Embeddings(np.array([[1] * 4, [0] * 4], np.float32))
RESIDUES = Embeddings(np.arange(20, dtype=np.float32).reshape(5, 4), np.array([0, 2, 5]))


def test_embeddings_are_those_of_transformers_in_the_order_given(finished_run) -> None:
    folder = finished_run.folder / "export"
    reference, tokenizer = EsmModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model = load_trained(folder).model
    means = embed(model, PROTEINS, batch_tokens=12)
    residues = embed(model, PROTEINS, per_residue=True)
    assert len(means) == len(residues) == len(PROTEINS)
    for protein, mean, each in zip(PROTEINS, means, residues, strict=True):
        with torch.no_grad():
            hidden = reference(**tokenizer(protein.decode(), return_tensors="pt")).last_hidden_state[0, 1:-1].numpy()
        np.testing.assert_allclose(each, hidden, atol=1e-4)
        np.testing.assert_allclose(mean, hidden.mean(0), atol=1e-4)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("embeddings", [MEANS, RESIDUES], ids=["means", "residues"])
def test_files_read_back(suffix: str, embeddings: Embeddings, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    save_embeddings(path, NAMES, embeddings)
    names, read = load_embeddings(path)
    assert names == NAMES
    for found, expected in zip(read, embeddings, strict=True):
        assert found.tolist() == expected.tolist()
    assert list(tmp_path.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_files_are_plain_arrays(tmp_path: Path) -> None:
    save_embeddings(tmp_path / "x.npz", NAMES, RESIDUES)
    save_embeddings(tmp_path / "x.safetensors", NAMES, RESIDUES)
    with np.load(tmp_path / "x.npz") as file:
        assert sorted(file) == ["embeddings", "names", "offsets"]
        assert bytes(file["names"]).decode().split("\n") == NAMES
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        assert sorted(file.keys()) == ["embeddings", "names", "offsets"]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
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


def test_a_name_of_two_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has a line end"):
        save_embeddings(tmp_path / "x.npz", ["a", "b\nc"], MEANS)


def test_a_folder_that_takes_no_files_is_told_first() -> None:
    with pytest.raises(UserError, match=r"/proc/x\.npz: cannot be written"):
        check_output(Path("/proc/x.npz"))


@pytest.mark.parametrize("name", ["none/a.npz", "a.txt", "folder.npz", "file/a.npz"])
def test_an_output_that_cannot_be_written_is_told_first(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"there is no folder|must end in|is a folder"):
        check_output(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_full_disk_is_told_first_and_in_one_line(suffix: str, small_disk: SmallDisk) -> None:
    disk = small_disk("2M")
    path = disk.path / f"x{suffix}"
    check_space(path, NAMES, [3, 4], 16, True)
    with pytest.raises(UserError, match=r"needs 0\.01 GB, and the disk has 0\.00 GB free"):
        check_space(path, NAMES, [1000, 1000], 1280, True)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        save_embeddings(path, NAMES, Embeddings(np.zeros((2, 1 << 20), np.float32)))
    assert list(disk.path.iterdir()) == []

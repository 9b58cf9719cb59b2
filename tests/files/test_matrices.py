"""Files of matrices read back by numpy and h5py, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from plm_composer.errors import UserError
from plm_composer.files.matrices import check_matrices, writing_matrices
from tests.disks import SmallDisk

NAMES = ["sp|P1|A_B", "a/b", "é"]


def _open(path: Path):
    return np.load(path) if path.suffix == ".npz" else h5py.File(path)


@pytest.mark.parametrize("name", ["x.npz", "x.h5", "x.hdf5"])
def test_each_matrix_is_under_its_name(name: str, tmp_path: Path) -> None:
    check_matrices(tmp_path / name, NAMES)
    with writing_matrices(tmp_path / name) as write:
        for size, each in enumerate(NAMES, 2):
            write(each, np.full((size, size), size, np.float32))
    with _open(tmp_path / name) as file:
        for size, each in enumerate(NAMES, 2):
            np.testing.assert_array_equal(file[each][()], np.full((size, size), size, np.float32))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["x.npz", "x.h5"])
def test_an_interruption_leaves_the_old_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("old")
    with pytest.raises(RuntimeError), writing_matrices(tmp_path / name) as write:
        write("a", np.zeros((2, 2)))
        raise RuntimeError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "old")]


def test_what_cannot_be_written_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    for name, message in {
        "x.txt": r"must end in \.npz, \.h5, \.hdf5",
        "none/x.npz": "there is no folder",
        "folder.npz": "is a folder",
    }.items():
        with pytest.raises(UserError, match=message):
            check_matrices(tmp_path / name, ["a"])
    with pytest.raises(UserError, match="cannot be written"):
        check_matrices(Path("/proc/x.npz"), ["a"])
    for names, message in (
        (["a", "a"], "two proteins are named 'a'"),
        ([""], "not a name"),
        (["a/../b"], "not a name"),
    ):
        with pytest.raises(UserError, match=message):
            check_matrices(tmp_path / "x.npz", names)
    check_matrices(tmp_path / "x.npz", ["a", "a/b"])
    with pytest.raises(UserError, match="the name 'a' is the beginning of another"):
        check_matrices(tmp_path / "x.h5", ["a", "a/b"])


@pytest.mark.parametrize("name", ["x.npz", "x.h5"])
def test_a_full_disk_is_one_line(name: str, small_disk: SmallDisk) -> None:
    disk = small_disk("2M")
    with (
        pytest.raises(UserError, match=r"cannot write .*: No space left on device$") as error,
        writing_matrices(disk.path / name) as write,
    ):
        write("a", np.zeros((1000, 1000)))
    assert "\n" not in str(error.value)
    assert list(disk.path.iterdir()) == []

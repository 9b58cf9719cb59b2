"""Files that are replaced whole or not at all."""

import os
import signal
from pathlib import Path

import pytest

from plm_composer.files.atomic import PARTIAL, link_to, replacing


def test_a_file_is_replaced_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="disk"), replacing(path) as partial:
        partial.write_text("ne")
        raise OSError("disk")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    child = os.fork()
    if child == 0:
        with replacing(path) as partial:
            partial.write_text("ne")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert path.read_text() == "old"
    assert (tmp_path / f"{PARTIAL}file").read_text() == "ne"


def test_a_link_is_relative_and_replaces(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
        link_to(tmp_path / "latest", tmp_path / name)
        assert (tmp_path / "latest").read_text() == name
    assert (tmp_path / "latest").readlink() == Path("two")

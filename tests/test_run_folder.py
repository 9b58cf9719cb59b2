"""What a run leaves, and what it says when it cannot."""

import collections
import shutil
from pathlib import Path

import pytest

from plm_composer.errors import UserError
from plm_composer.run_folder import RunFolder

Usage = collections.namedtuple("Usage", "total used free")


def _fail() -> None:
    raise RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 1712832 vs 1712784")


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 100, 0))
    with pytest.raises(UserError, match="the disk is full"), RunFolder(tmp_path).explain_full_disk():
        _fail()


@pytest.mark.parametrize("folder", [".", "not there"])
def test_an_error_of_another_cause_is_left_alone(tmp_path: Path, folder: str) -> None:
    with pytest.raises(RuntimeError, match="unexpected pos"), RunFolder(tmp_path / folder).explain_full_disk():
        _fail()

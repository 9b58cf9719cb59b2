"""Which checkpoint a run continues from where the latest is damaged or gone."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint

from plm_composer.checkpoints.local_folder import find_checkpoints, repair_latest
from plm_composer.checkpoints.wholeness import damage
from plm_composer.errors import UserError
from plm_composer.files.atomic import link_to
from plm_composer.run_folder import LATEST
from tests.run.interrupted_runs import DEADLINE, Run, same_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three checkpoints, the last of which is the latest."""
    for batch in (2, 4, 10):
        torch.save({"weights": torch.arange(10_000) + batch}, tmp_path / f"ep0-ba{batch}-rank0.pt")
    link_to(tmp_path / LATEST, tmp_path / "ep0-ba10-rank0.pt")
    return tmp_path


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_blocks(path: Path) -> None:
    """As after a power cut: the length is right, and what was not yet on the disk is zeros."""
    content = bytearray(path.read_bytes())
    content[20_000:24_096] = bytes(4096)
    path.write_bytes(content)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


CUT = "is damaged or cut short"
WAYS = [(empty, "is empty"), (cut, CUT), (halve, CUT), (lose_blocks, "is damaged"), (flip, "is damaged"),
        (Path.unlink, "is missing")]  # fmt: skip


def test_a_whole_latest_is_taken_silently(folder: Path) -> None:
    assert repair_latest(folder) is None
    assert (folder / LATEST).resolve().name == "ep0-ba10-rank0.pt"
    assert repair_latest(folder / "not there") is None


@pytest.mark.parametrize(("spoil", "reason"), WAYS)
def test_the_newest_whole_one_is_taken(folder: Path, spoil: Callable[[Path], None], reason: str) -> None:
    spoil(folder / "ep0-ba10-rank0.pt")
    message = repair_latest(folder)
    assert message is not None
    assert message == f"{folder}/ep0-ba10-rank0.pt {reason}; continuing from ep0-ba4-rank0.pt"
    assert (folder / LATEST).resolve().name == "ep0-ba4-rank0.pt"
    assert repair_latest(folder) is None


def test_a_kill_between_the_file_and_its_link(folder: Path) -> None:
    (folder / LATEST).unlink()
    message = repair_latest(folder)
    assert message == f"{folder}/{LATEST} is missing; continuing from ep0-ba10-rank0.pt"


def test_where_none_is_whole_nothing_is_guessed(folder: Path) -> None:
    for path in find_checkpoints(folder):
        halve(path)
    with pytest.raises(UserError, match=r"no whole checkpoint is left: put one back, or start over with") as error:
        repair_latest(folder)
    assert len(str(error.value).splitlines()) == 1


def test_a_link_to_nothing_is_not_a_new_run(folder: Path) -> None:
    for path in find_checkpoints(folder):
        path.unlink()
    with pytest.raises(UserError, match=r"ep0-ba10-rank0.pt is missing; no whole checkpoint is left"):
        repair_latest(folder)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "ep0-ba2"
    content = {"weights": torch.arange(1000), "more": torch.arange(10.0)}
    torch.distributed.checkpoint.save(content, checkpoint_id=folder, no_dist=True)
    return folder


def test_a_whole_sharded_checkpoint(sharded: Path) -> None:
    assert damage(sharded) is None
    assert find_checkpoints(sharded.parent) == [sharded]


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        (".metadata", Path.unlink, "was not finished"),
        (".metadata", halve, "is damaged or cut short"),
        (".metadata", empty, "is damaged or cut short"),
        ("__0_0.distcp", Path.unlink, "is not whole: __0_0.distcp is missing or cut short"),
        ("__0_0.distcp", cut, "is not whole: __0_0.distcp is missing or cut short"),
    ],
)
def test_a_damaged_sharded_checkpoint(sharded: Path, name: str, spoil: Callable[[Path], None], reason: str) -> None:
    spoil(sharded / name)
    assert damage(sharded) == reason


class _Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("ran"),)


def test_looking_at_a_sharded_checkpoint_runs_nothing(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sharded.parent)
    (sharded / ".metadata").write_bytes(pickle.dumps(_Payload()))
    assert damage(sharded) == "holds objects that could run code when it is loaded"
    assert not Path("ran").exists()


@pytest.mark.slow
def test_a_run_falls_back_and_never_starts_over_silently(small_set: Path, tiny: tuple[str, ...]) -> None:
    run = Run(small_set, "damaged", (*tiny, "save_num_checkpoints_to_keep=2"))
    run.finish()
    assert run.saved() == ["ep0-ba4-rank0.pt", "ep0-ba6-rank0.pt", "latest-rank0.pt"]
    whole = Run(small_set, "undamaged", run.overrides)
    shutil.copytree(run.folder, whole.folder, symlinks=True)

    halve(run.checkpoints / "ep0-ba6-rank0.pt")
    assert run.finish().splitlines()[0] == (
        "autoresume: runs/damaged/checkpoints/ep0-ba6-rank0.pt is damaged or cut short; continuing from "
        "ep0-ba4-rank0.pt"
    )
    assert run.learned() == whole.learned()
    assert same_weights(run, whole)
    # What was left of the damaged one does not stay beyond the number to keep.
    assert run.saved() == ["ep0-ba4-rank0.pt", "ep0-ba6-rank0.pt", "latest-rank0.pt"]

    for path in find_checkpoints(run.checkpoints):
        empty(path)
    before = run.learned()
    process = run.start()
    _, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2
    assert "error: autoresume: runs/damaged/checkpoints/ep0-ba6-rank0.pt is empty; " in stderr
    assert "start over with autoresume=false save_overwrite=true" in stderr
    assert "Traceback" not in stderr
    assert run.learned() == before


@pytest.mark.faults
def test_a_sharded_run_falls_back(small_set: Path, tiny: tuple[str, ...]) -> None:
    overrides = ("recipe=fsdp", "fsdp_config.state_dict_type=sharded", "save_num_checkpoints_to_keep=2")
    run = Run(small_set, "damaged-shards", (*tiny, *overrides))
    run.finish(processes=2)
    assert run.saved() == ["ep0-ba4", "ep0-ba6", "latest-rank0.pt"]
    before = run.learned()
    cut(run.checkpoints / "ep0-ba6" / "__1_0.distcp")
    assert "ep0-ba6 is not whole: __1_0.distcp is missing or cut short; continuing from ep0-ba4" in run.finish(
        processes=2
    )
    assert run.learned() == before
    assert damage(run.checkpoints / "ep0-ba6") is None
    assert run.saved() == ["ep0-ba4", "ep0-ba6", "latest-rank0.pt"]

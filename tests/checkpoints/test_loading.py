"""Which checkpoints a run may start from, and what it says of the others."""

import pytest
import torch

from plm_composer.checkpoints.loading import loading_checkpoint
from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError


@pytest.fixture
def file(tmp_path):
    torch.save({}, tmp_path / "ep0-ba2-rank0.pt")
    return tmp_path / "ep0-ba2-rank0.pt"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ep0-ba2").mkdir()
    (tmp_path / "ep0-ba2" / ".metadata").touch()
    return tmp_path / "ep0-ba2"


def check(sharded: bool = False, **keys) -> None:
    with loading_checkpoint(TrainConfig(**keys), sharded):
        pass


def test_a_run_loads_checkpoints_of_its_own_kind(file, folder) -> None:
    check(load_path=str(file))
    check(load_path=str(folder), sharded=True)
    check(load_path="s3://bucket/ep0-ba2")
    check()


@pytest.mark.parametrize("autoresume", [False, True])
def test_checkpoints_of_the_other_kind_are_refused(file, folder, tmp_path, autoresume: bool) -> None:
    latest = tmp_path / "latest-rank0.pt"

    def keys(path) -> dict:
        latest.unlink(missing_ok=True)
        latest.symlink_to(path)
        return {"autoresume": True, "save_folder": str(tmp_path)} if autoresume else {"load_path": str(path)}

    key = "autoresume" if autoresume else "load_path"
    with pytest.raises(UserError, match=f"^{key}: .*ep0-ba2 is a sharded checkpoint; .*state_dict_type=sharded"):
        check(**keys(folder))
    with pytest.raises(UserError, match=f"^{key}: .*rank0.pt is a checkpoint in one file, .*state_dict_type=full"):
        check(sharded=True, **keys(file))


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="is a folder, but not a sharded checkpoint"):
        check(load_path=str(tmp_path), sharded=True)


def test_archives_are_refused_without_trust() -> None:
    with pytest.raises(UserError, match=r"load_path: run\.tar\.gz: an archive may write files anywhere"):
        check(load_path="run.tar.gz")
    check(load_path="run.tar.gz", load_trust=True)


def test_weights_that_do_not_fit_are_one_line() -> None:
    keys = TrainConfig(load_path="other.pt")
    with (
        pytest.raises(UserError, match=r"load_path: other.pt does not fit the model: Missing key\(s\) .*weight"),
        loading_checkpoint(keys, sharded=False),
    ):
        torch.nn.Linear(2, 2).load_state_dict({"bias": torch.zeros(2)})

"""Models from wherever they lie."""

import datetime
from pathlib import Path

import pytest
import torch

from plm_composer.errors import UserError
from plm_composer.inference.load import load_trained
from plm_composer.model.weights.fair_esm import save_fair_esm


def test_a_run_its_checkpoint_and_its_export_are_one_model(finished_run, tmp_path) -> None:
    checkpoint = finished_run.folder / "checkpoints" / "latest-rank0.pt"
    models = [load_trained(path) for path in (finished_run.folder, checkpoint, finished_run.folder / "export")]
    save_fair_esm(models[0].model.state_dict(), models[0].model.config, tmp_path / "esm2_tiny.pt")
    models.append(load_trained(tmp_path / "esm2_tiny.pt"))
    ids = torch.tensor([[0, 20, 7, 32, 4, 2]])
    expected = models[0].model(ids)
    for loaded in models:
        assert not loaded.model.training
        torch.testing.assert_close(loaded.model(ids), expected, atol=1e-6, rtol=0)
    assert models[0].run is not None
    assert models[0].run.run_name == "esm2_small"


@pytest.mark.parametrize("content", [b"", b">a\nMKV\n", b"PK\x03\x04 cut short"])
def test_what_is_no_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.pt: not a PyTorch file"):
        load_trained(tmp_path / "model.pt")


def test_a_truncated_checkpoint_is_one_line(finished_run, tmp_path) -> None:
    content = (finished_run.folder / "checkpoints" / "latest-rank0.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="a damaged one"):
        load_trained(tmp_path / "model.pt")


class Payload:
    """What an attacker would put into a checkpoint."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("executed"),)


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state": {"model": {}, "callbacks": {}, "clock": datetime.timedelta(1), "evil": Payload()}}, "model.pt")
    with pytest.raises(UserError):
        load_trained("model.pt")
    assert not Path("executed").exists()


def test_a_checkpoint_of_another_program_is_one_line(tmp_path) -> None:
    torch.save({"state": {"model": {}, "callbacks": {}}}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="does not say how its model was built"):
        load_trained(tmp_path / "model.pt")


def test_folders_that_hold_no_model(tmp_path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        load_trained(tmp_path / "none")
    with pytest.raises(UserError, match="neither a run folder"):
        load_trained(tmp_path)

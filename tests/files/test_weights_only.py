"""Files that carry code: none of it runs, wherever they are given."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from streaming import MDSWriter
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.format_utils import torch_save_to_dcp

from plm_composer.errors import UserError
from plm_composer.files.weights_only import plain_values_only
from plm_composer.inference.load import load_trained
from plm_composer.run.load import load_config
from tests.commands import REPOSITORY, TINY, run_here


class Payload:
    """What an attacker would put into a file: unpickling it makes a folder ``executed`` in the working folder."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("executed",)


@pytest.fixture(autouse=True)
def in_a_scratch_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def checkpoint(finished_run) -> dict:
    """A run's checkpoint, in which an attacker can hide something."""
    with plain_values_only("checkpoint"):
        return torch.load(finished_run.folder / "checkpoints" / "latest-rank0.pt", weights_only=True)


def write_file(checkpoint: dict) -> Path:
    torch.save({**checkpoint, "note": Payload()}, "model.pt")
    return Path("model.pt")


def write_fair_esm(checkpoint: dict) -> Path:
    torch.save({"cfg": {"model": Payload()}, "model": {}}, "esm2_evil.pt")
    return Path("esm2_evil.pt")


def write_sharded(checkpoint: dict) -> Path:
    """A good sharded checkpoint, to which the tests below do harm."""
    torch.save({"state": checkpoint["state"]}, "whole.pt")
    torch_save_to_dcp("whole.pt", "sharded")
    return Path("sharded")


def write_sharded_metadata(checkpoint: dict) -> Path:
    folder = write_sharded({"state": {"model": checkpoint["state"]["model"]}})
    metadata = FileSystemReader(folder).read_metadata()
    metadata.planner_data = Payload()
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


class Refused(NamedTuple):
    code: int
    errors: str


def refuse(*command: object) -> Refused:
    result = run_here(Path.cwd(), *command)
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return Refused(result.returncode, lines[0])


@pytest.mark.parametrize("write", [write_file, write_fair_esm, write_sharded_metadata])
def test_plm_evaluate_runs_no_code(checkpoint, write: Callable[[dict], Path]) -> None:
    path = write(checkpoint)
    sample = REPOSITORY / "plm_composer" / "sample" / "val.fasta.gz"
    code, error = refuse("plm", "evaluate", path, "--data", sample, "--limit", 1)
    assert code == 2
    assert error.startswith(f"error: {path}: holds posix.mkdir, which could run code")
    assert "--trust" in error
    assert not Path("executed").exists()


@pytest.mark.parametrize("sharded", [False, True])
def test_load_path_runs_no_code(checkpoint, sharded: bool) -> None:
    path = write_sharded_metadata(checkpoint) if sharded else write_file(checkpoint)
    code, error = refuse(
        "train.py", REPOSITORY / "yamls" / "esm2_small.yaml", *TINY,
        f"load_path={path}", "run_name=evil", *(["recipe=fsdp", "fsdp_config.state_dict_type=sharded"] * sharded),
    )  # fmt: skip
    assert code == 2
    assert f"load_path: {path}: holds " in error
    assert "load_trust=true" in error
    assert not Path("executed").exists()


def test_the_parts_of_a_sharded_checkpoint_run_no_code(monkeypatch) -> None:
    """Values that are no tensors are pickles inside the parts."""
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: {"state": {"model": {}, "note": Payload()}})
        torch_save_to_dcp("whole.pt", "sharded")
    with pytest.raises(UserError, match="which could run code"):
        load_trained("sharded")
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere"])
def test_the_parts_of_a_sharded_checkpoint_lie_in_it(checkpoint, name: str) -> None:
    """A download would write them to where the metadata says."""
    folder = write_sharded(checkpoint)
    metadata = FileSystemReader(folder).read_metadata()
    for part in metadata.storage_data.values():
        part.relative_path = name
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(UserError, match=r"sharded: holds '.*elsewhere'"):
        load_trained(folder)


def test_weights_of_a_hugging_face_folder_run_no_code(finished_run) -> None:
    shutil.copytree(finished_run.folder / "export", "folder")
    Path("folder/model.safetensors").unlink()
    torch.save({"esm": Payload()}, "folder/pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: holds"):
        load_trained("folder")
    assert not Path("executed").exists()


def test_good_sharded_checkpoints_need_no_trust(checkpoint) -> None:
    loaded = load_trained(write_sharded(checkpoint)).model.state_dict()
    assert all(torch.equal(loaded[name.removeprefix("model.")], value)
               for name, value in checkpoint["state"]["model"].items())  # fmt: skip


def test_trust_loads_whatever_there_is(checkpoint) -> None:
    load_trained(write_file(checkpoint), trust=True)
    assert Path("executed").exists()


def test_torchs_own_switch_does_not_lift_the_guard(checkpoint, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(UserError, match="could run code"):
        load_trained(write_file(checkpoint))
    assert not Path("executed").exists()


def test_the_guard_ends_where_it_should() -> None:
    before = FileSystemReader.read_metadata
    with plain_values_only("nothing"):
        assert FileSystemReader.read_metadata is not before
    assert FileSystemReader.read_metadata is before
    torch.save(Payload(), "own.pt")
    torch.load("own.pt", weights_only=False)
    assert Path("executed").exists()


def test_shards_run_no_code() -> None:
    """streaming refuses pickled columns as long as nobody allows them."""
    for split in ("train", "val"):
        with MDSWriter(out=f"shards/{split}", columns={"sequence": "pkl"}) as writer:
            writer.write({"sequence": Payload()})
    command = ("train.py", REPOSITORY / "yamls" / "esm2_small.yaml", *TINY, "data.local=shards")
    code, error = refuse(*command)
    assert code == 2
    assert "unsafe type" in error
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("content", "arguments"),
    [
        ("run_name: !!python/object/apply:pathlib.Path.touch [executed]", ()),
        ("run_name: !!python/name:os.system", ()),
        ("seed: 1", ('run_name=!!python/object/apply:os.system ["touch executed"]',)),
    ],
)
def test_yaml_makes_no_objects(content: str, arguments: tuple[str, ...]) -> None:
    Path("evil.yaml").write_text(content)
    with pytest.raises(UserError, match="could not determine a constructor for the tag"):
        load_config("evil.yaml", arguments)
    assert not Path("executed").exists()


def test_exports_hold_no_pickles(finished_run) -> None:
    names = {path.name for path in (finished_run.folder / "export").iterdir()}
    assert "model.safetensors" in names
    assert {name.rsplit(".", 1)[-1] for name in names} <= {"safetensors", "json", "txt", "md"}

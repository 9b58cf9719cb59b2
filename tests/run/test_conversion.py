"""A run that is given a FASTA."""

import os
from pathlib import Path

import numpy as np
import pytest

from plm_composer.config.schema import DataConfig
from plm_composer.errors import UserError
from plm_composer.run import conversion as automatic_conversion
from plm_composer.run.conversion import _hash, prepare_shards
from plm_composer.shards.output.manifest import read_manifest


def _write_fasta(path: Path, seed: int) -> Path:
    letters = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC", np.uint8)
    random = np.random.default_rng(seed)
    records = [b">p%d\n%s\n" % (index, bytes(random.choice(letters, 30 + seed))) for index in range(3000)]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(records))
    return path


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_shards_alone_are_left_alone(scratch: Path) -> None:
    assert prepare_shards(DataConfig(local="shards")) == "shards"


def test_the_bundled_sample_is_converted_once(scratch: Path) -> None:
    assert prepare_shards(DataConfig(fasta="sample"), progress=False) == "data/sample"
    before = (scratch / "data/sample/manifest.json").stat().st_mtime_ns
    prepare_shards(DataConfig(fasta="sample"), progress=False)
    assert (scratch / "data/sample/manifest.json").stat().st_mtime_ns == before
    assert set(read_manifest("data/sample").splits) == {"train", "val"}


def test_another_fasta_of_the_same_name_is_noticed(scratch: Path) -> None:
    first, second = _write_fasta(scratch / "a" / "mine.fasta", 1), _write_fasta(scratch / "b" / "mine.fasta", 2)
    assert prepare_shards(DataConfig(fasta=str(first)), progress=False) == "data/mine"
    with pytest.raises(UserError, match="data/mine holds the shards of other proteins"):
        prepare_shards(DataConfig(fasta=str(second)), progress=False)
    assert prepare_shards(DataConfig(fasta=str(second), local="other"), progress=False) == "other"


def test_the_validation_set_may_be_a_file_of_its_own(scratch: Path) -> None:
    train, val = _write_fasta(scratch / "train.fasta", 1), _write_fasta(scratch / "val.fasta", 2)
    data = DataConfig(fasta=str(train), val_fasta=str(val))
    assert prepare_shards(data, progress=False) == "data/train"
    splits = read_manifest("data/train").splits
    assert (splits["train"].proteins, splits["val"].proteins) == (3000, 3000)
    with pytest.raises(UserError, match=r"data/train holds the shards of val\.fasta, too"):
        prepare_shards(
            DataConfig(fasta=str(train), val_fasta=str(_write_fasta(scratch / "x.fasta", 3))), progress=False
        )
    with pytest.raises(UserError, match=r"data\.val_fasta belongs to data\.fasta"):
        prepare_shards(DataConfig(local="shards", val_fasta=str(val)))


def test_an_edit_that_keeps_the_size_is_noticed(scratch: Path) -> None:
    path = _write_fasta(scratch / "mine.fasta", 1)
    data = DataConfig(fasta="mine.fasta")
    prepare_shards(data, progress=False)
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"A", b"W"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    with pytest.raises(UserError, match=r"data/mine holds the shards of other proteins than mine\.fasta has now"):
        prepare_shards(data, progress=False)


def test_a_file_is_read_again_only_when_it_may_have_changed(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write_fasta(scratch / "mine.fasta", 1)
    data = DataConfig(fasta="mine.fasta")
    prepare_shards(data, progress=False)
    read = []
    monkeypatch.setattr(automatic_conversion, "_hash", lambda path: read.append(path) or _hash(path))
    prepare_shards(data, progress=False)
    assert read == []
    path.touch()
    prepare_shards(data, progress=False)
    prepare_shards(data, progress=False)
    assert read == [Path("mine.fasta")]


def test_shards_of_more_than_was_asked_for_are_refused(scratch: Path) -> None:
    train, val = _write_fasta(scratch / "x.fasta", 1), _write_fasta(scratch / "held_out.fasta", 2)
    prepare_shards(DataConfig(fasta=str(train), val_fasta=str(val)), progress=False)
    with pytest.raises(UserError, match=r"data/x holds the shards of held_out\.fasta, too"):
        prepare_shards(DataConfig(fasta=str(train)), progress=False)


def test_files_of_one_name_are_told_apart(scratch: Path) -> None:
    train, val = _write_fasta(scratch / "a" / "x.fasta", 1), _write_fasta(scratch / "b" / "x.fasta", 2)
    data = DataConfig(fasta=str(train), val_fasta=str(val))
    assert prepare_shards(data, progress=False) == prepare_shards(data, progress=False) == "data/x"


def test_few_proteins_train_without_a_validation_set(scratch: Path) -> None:
    (scratch / "few.fasta").write_text(">a\nMKV\n>b\nMKL\n")
    with pytest.raises(UserError, match=r"none of its 2 proteins .*data\.val_fasta.*data\.val_split=null") as error:
        prepare_shards(DataConfig(fasta="few.fasta"), progress=False)
    assert "--" not in str(error.value)
    prepare_shards(DataConfig(fasta="few.fasta", val_split=None), progress=False)
    assert read_manifest("data/few").splits.keys() == {"train"}
    with pytest.raises(UserError, match=r"data/few has no split 'val' to validate on; set data\.val_split=null"):
        prepare_shards(DataConfig(fasta="few.fasta"), progress=False)


def test_options_of_the_converter_are_named_as_such(scratch: Path) -> None:
    (scratch / "odd.fasta").write_text(">a\nMK5\n")
    with pytest.raises(UserError, match=r"data\.fasta: odd\.fasta, line 2.*--options are those of convert/fasta\.py"):
        prepare_shards(DataConfig(fasta="odd.fasta"), progress=False)

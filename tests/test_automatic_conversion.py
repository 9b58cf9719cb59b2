"""A run that is given a FASTA."""

from pathlib import Path

import numpy as np
import pytest

from plm_composer.automatic_conversion import prepare_shards
from plm_composer.errors import UserError
from plm_composer.schema import DataConfig
from plm_composer.shards.manifest import read_manifest


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
    with pytest.raises(UserError, match="data/train holds the shards of other proteins"):
        prepare_shards(
            DataConfig(fasta=str(train), val_fasta=str(_write_fasta(scratch / "x.fasta", 3))), progress=False
        )
    with pytest.raises(UserError, match=r"data\.val_fasta belongs to data\.fasta"):
        prepare_shards(DataConfig(local="shards", val_fasta=str(val)))

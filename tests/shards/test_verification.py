"""``plm verify``: what is damaged is named, and nothing else."""

import json

import pytest
from typer.testing import CliRunner

from plm_composer.cli import app
from plm_composer.errors import UserError
from plm_composer.sample import VAL_FASTA
from plm_composer.shards.convert import convert_fasta
from plm_composer.shards.pipeline import Settings
from plm_composer.shards.verification import verify


@pytest.fixture(params=["zstd:3", "none"])
def dataset(tmp_path, request):
    settings = Settings(compression=request.param, shard_size=0.02)
    convert_fasta([VAL_FASTA], tmp_path / "set", val_fraction=0.3, settings=settings, processes=1, progress=False)
    return tmp_path / "set"


def shards(dataset):
    return sorted((dataset / "train").glob("shard*"))


def problems(dataset):
    return {damage.file: damage.problem for damage in verify(str(dataset)).damaged}


def test_an_undamaged_dataset_passes_and_says_which_it_is(dataset):
    result = CliRunner().invoke(app, ["verify", str(dataset), "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert found["damaged"] == []
    assert found["digest"] == manifest["digest"]
    assert found["proteins"] == sum(split["proteins"] for split in manifest["splits"].values())
    assert found["shards"] == len(list(dataset.glob("*/shard*")))


def test_missing_truncated_and_flipped_shards_are_named(dataset):
    first, second, third, *_ = shards(dataset)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    content = bytearray(third.read_bytes())
    content[-1] ^= 1
    third.write_bytes(content)
    found = problems(dataset)
    assert found.keys() == {f"train/{path.name}" for path in (first, second, third)}
    assert found[f"train/{first.name}"] == "is missing"
    assert "bytes instead of" in found[f"train/{second.name}"]
    assert "hash differs" in found[f"train/{third.name}"]


def test_a_changed_index_is_named(dataset):
    index = dataset / "train" / "index.json"
    content = json.loads(index.read_text())
    del content["shards"][0]
    index.write_text(json.dumps(content))
    assert "is not the index that manifest.json was written for" in problems(dataset)["train/index.json"]
    index.write_text("{}")
    assert problems(dataset)["train/index.json"] == "is not an index of shards"
    index.unlink()
    assert problems(dataset)["train/index.json"] == "is missing"


def test_a_damaged_unpacked_copy_is_named(dataset):
    packed = shards(dataset)[0]
    if packed.suffix == ".zstd":
        packed.with_suffix("").write_bytes(b"half")
        assert "its unpacked copy" in problems(dataset)[f"train/{packed.name}"]


def test_the_command_lists_damage_and_ends_with_one_error(dataset):
    for path in shards(dataset)[:2]:
        path.unlink()
    result = CliRunner().invoke(app, ["verify", str(dataset)])
    assert isinstance(result.exception, UserError)
    assert "2 files are not what was written" in str(result.exception)
    assert result.output.count("is missing") == 2


def test_no_dataset_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"manifest.json is missing; is this a dataset"):
        verify(str(tmp_path))

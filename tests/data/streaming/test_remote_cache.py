"""The cache of a remote dataset belongs to its content."""

from pathlib import Path

import pytest

from plm_composer.data.streaming.reading import read_split
from plm_composer.data.streaming.remote_cache import cache_places
from plm_composer.errors import UserError
from tests.commands import REPOSITORY, Run
from tests.disks import SmallDisk


def test_a_remote_that_was_written_anew_is_not_read_from_the_old_cache(write_shards, tmp_path: Path) -> None:
    place = {"local": str(tmp_path / "cache"), "remote": str(write_shards([b"MKV", b"LLA"]))}
    assert read_split(cache_places([place], ["train"]), "train") == [b"MKV", b"LLA"]
    for path in Path(place["remote"], "train").iterdir():
        path.unlink()
    write_shards([b"GGG", b"HHH"])
    assert read_split(cache_places([place], ["train"]), "train") == [b"GGG", b"HHH"]


def test_the_same_content_has_the_same_cache_and_what_is_local_stays(write_shards, tmp_path: Path) -> None:
    remote = str(write_shards([b"MKV"]))
    places = [{"local": str(tmp_path / "cache"), "remote": remote, "proportion": 0.5}, {"local": remote}]
    first, again = cache_places(places, ["train"]), cache_places(places, ["train"])
    assert first == again
    assert Path(first[0]["local"]).parent == tmp_path / "cache"
    assert first[0]["proportion"] == 0.5
    assert first[1] == {"local": remote}


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere/train/index.json: "):
        cache_places([{"remote": str(tmp_path / "nowhere")}], ["train"], download_retry=1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_is_one_line(small_set: Path, small_disk: SmallDisk, run_command: Run, tiny, workers: int) -> None:
    cache = small_disk("24k").path / "cache"  # room for the index, not for the shard
    result = run_command(
        "python", REPOSITORY / "train.py", REPOSITORY / "yamls" / "esm2_small.yaml", *tiny,
        f"data.remote={small_set / 'shards'}", f"data.local={cache}", "data.val_split=null", "eval_interval=0",
        f"data.num_workers={workers}",
    )  # fmt: skip
    assert result.returncode == 2, result.stdout + result.stderr
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith(f"error: shard {small_set / 'shards'}/train/shard.00000.mds.zstd: the disk of {cache}/")
    assert error.endswith(" is full; set data.local to a larger one, or lower data.cache_limit")
    assert "Traceback" not in result.stderr

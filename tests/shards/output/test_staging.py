import errno
from collections import Counter

import pytest

from plm_composer.errors import UserError
from plm_composer.shards.output.manifest import MANIFEST_NAME, read_manifest, summarise
from plm_composer.shards.output.staging import staged_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def manifest(content):
    return summarise({}, [], Counter(), {}, {"made for": content}).to_json()


def publish(out, content="new", *, overwrite=False):
    with staged_folder(out, overwrite=overwrite) as folder:
        (folder / MANIFEST_NAME).write_text(manifest(content))
        assert folder != out


def published(out):
    return read_manifest(out).settings["made for"]


def test_publishes_at_the_end(tmp_path):
    publish(tmp_path / "deep" / "out")
    assert names(tmp_path / "deep") == ["out"]
    assert names(tmp_path / "deep" / "out") == [MANIFEST_NAME]


def test_an_empty_folder_may_be_there(tmp_path):
    (tmp_path / "out").mkdir()
    publish(tmp_path / "out")
    assert names(tmp_path / "out") == [MANIFEST_NAME]


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit(143)])
def test_leaves_nothing_after_an_error(tmp_path, error):
    with pytest.raises(type(error)), staged_folder(tmp_path / "out", overwrite=False) as folder:
        (folder / "shard").write_text("half")
        raise error
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_is_a_clear_error(tmp_path, number):
    with pytest.raises(UserError, match=r"out: disk full"), staged_folder(tmp_path / "out", overwrite=False):
        raise OSError(number, "no space")
    assert names(tmp_path) == []


def test_refuses_what_is_there(tmp_path):
    publish(tmp_path / "out", "old")
    with pytest.raises(UserError, match=r"exists; .*--overwrite"):
        publish(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        publish(tmp_path / "file", overwrite=True)


def test_overwrite_replaces_a_dataset_only(tmp_path):
    publish(tmp_path / "out", "old")
    publish(tmp_path / "out", "new", overwrite=True)
    assert published(tmp_path / "out") == "new"
    assert names(tmp_path) == ["out"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"holds thesis\.tex, which is not part of a converted dataset"):
        publish(tmp_path / "home", overwrite=True)
    assert names(tmp_path / "home") == ["thesis.tex"]


@pytest.mark.parametrize("name", ["NOTES.md", "test/index.json", "train/notes.txt", ".git/config"])
def test_overwrite_takes_nothing_that_lies_beside_the_dataset(tmp_path, name):
    publish(tmp_path / "out", "old")
    path = tmp_path / "out" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    with pytest.raises(UserError, match=f"holds {name.split('/')[0]}"):
        publish(tmp_path / "out", overwrite=True)
    assert path.read_text() == "precious"
    assert published(tmp_path / "out") == "old"


def test_another_programs_manifest_is_no_dataset(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / MANIFEST_NAME).write_text('{"name": "a web page"}')
    with pytest.raises(UserError, match=r"holds manifest\.json, which is not part"):
        publish(tmp_path / "app", overwrite=True)
    assert names(tmp_path / "app") == [MANIFEST_NAME]


def test_an_empty_folder_beside_the_output_is_no_hindrance(tmp_path):
    (tmp_path / "out.replaced").mkdir()
    publish(tmp_path / "out")
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("suffix", ["partial", "replaced"])
def test_a_folder_of_somebody_elses_beside_the_output_is_left_alone(tmp_path, suffix):
    other = tmp_path / f"out.{suffix}"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=f"out.{suffix}: in the way of a conversion"):
        publish(tmp_path / "out")
    assert names(other) == ["thesis.tex"]


def test_overwrite_keeps_the_old_until_the_new_is_complete(tmp_path):
    publish(tmp_path / "out", "old")
    with pytest.raises(ValueError), staged_folder(tmp_path / "out", overwrite=True):
        assert published(tmp_path / "out") == "old"
        raise ValueError
    assert published(tmp_path / "out") == "old"


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    left = tmp_path / "out.partial"
    (left / "train").mkdir(parents=True)
    (left / "train" / "index.json").write_text("{}")
    (left / ".lock").write_text("")
    publish(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == [MANIFEST_NAME]


def test_a_replacement_killed_between_its_renames_is_undone(tmp_path):
    publish(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / "out.replaced")
    with pytest.raises(UserError, match="exists"):
        publish(tmp_path / "out")
    assert published(tmp_path / "out") == "old"


def test_two_at_once_are_refused(tmp_path):
    with staged_folder(tmp_path / "out", overwrite=False) as folder:
        (folder / "mine").write_text("")
        with pytest.raises(UserError, match="another conversion is writing here"):
            publish(tmp_path / "out")
        assert (folder / "mine").exists()
    assert names(tmp_path / "out") == ["mine"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Not a directory"):
        publish(tmp_path / "file" / "out")

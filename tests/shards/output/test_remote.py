from pathlib import Path

import pytest
from streaming.base.storage.upload import LocalUploader

from plm_composer.errors import UserError
from plm_composer.shards.convert import convert_fasta
from plm_composer.shards.output.remote import is_remote, upload


def test_is_remote():
    assert is_remote("s3://bucket/folder")
    assert is_remote("gs://bucket")
    assert not is_remote("data/uniref50")
    assert not is_remote(Path("s3"))


def test_what_makes_the_dataset_valid_is_uploaded_last(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    names = ["manifest.json", "train/index.json", "train/shard.00000.mds", "val/index.json", "val/shard.00000.mds"]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
        (target / name).parent.mkdir(parents=True, exist_ok=True)  # object stores need no folders
    uploaded = []
    uploader = LocalUploader((str(source), str(target)), keep_local=True, exist_ok=True)
    upload(uploader, str(target), source, uploaded.append)
    assert uploaded == [names[2], names[4], names[1], names[3], names[0]]
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()) == names
    assert all((target / name).read_text() == name for name in names)


def test_a_failed_upload_does_not_publish(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("train/shard.00000.mds", "train/index.json", "manifest.json"):
        (tmp_path / name).write_text("")
    tried = []

    class FailingStore:
        def upload_file(self, name):
            tried.append(name)
            raise ConnectionError("connection\nlost")

    with pytest.raises(UserError, match=r"^s3://b/x: connection lost; check"):
        upload(FailingStore(), "s3://b/x", tmp_path)
    assert tried == ["train/shard.00000.mds"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("s3://bucket/x", r"s3://bucket/x: Unable to locate credentials; check"),
        ("ftp://host/x", r"ftp://host/x: Invalid Cloud provider prefix: ftp"),
    ],
)
def test_no_credentials_or_no_such_kind_of_store(tmp_path, monkeypatch, out, message):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    (tmp_path / "x.fasta").write_text(">a\nMKV\n")
    with pytest.raises(UserError, match=message):
        convert_fasta([tmp_path / "x.fasta"], out, val_fraction=0, processes=1, progress=False)

"""The converter on Spark: on two local cores, against the one-machine converter."""

import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plm_composer.errors import UserError
from plm_composer.shards.convert import convert_fasta
from plm_composer.shards.inputs.cleaning import Rules
from plm_composer.shards.output.manifest import read_manifest
from plm_composer.shards.output.settings import Settings
from plm_composer.shards.spark import convert_fasta_on_spark

ROOT = Path(__file__).parents[2]

if importlib.util.find_spec("pyspark") is None:
    pytest.skip("PySpark is not installed", allow_module_level=True)
if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
    pytest.skip("Spark needs a Java runtime: none on PATH, no JAVA_HOME", allow_module_level=True)


@pytest.fixture(scope="module")
def session():
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        session = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
        session.sparkContext.setLogLevel("OFF")
        yield session
        session.stop()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("settings", "own_val"),
    [
        (Settings(shard_size=0.25, val_fraction=0.05, deduplicate=True), False),
        (Settings(shard_size=0.1, compression="none", rules=Rules(min_length=100, max_length=600)), True),
    ],
)
def test_the_same_to_the_byte_as_on_one_machine(shared_data, tmp_path, session, settings, own_val):
    data = shared_data / "proteins"
    inputs = [data / "val.fasta.gz", shared_data / "families" / "train.fasta.gz", data / "val.fasta.gz"]
    options = {"settings": settings, "val_inputs": [shared_data / "families" / "val.fasta.gz"] if own_val else ()}
    expected = convert_fasta(inputs, tmp_path / "one", progress=False, **options)
    manifest = convert_fasta_on_spark(session, inputs, tmp_path / "cluster", **options)
    assert manifest == expected
    assert manifest.dropped
    assert contents(tmp_path / "cluster") == contents(tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster", "one"]
    assert len(list((tmp_path / "one").rglob("shard.*"))) > 20


def test_blocks_larger_than_shards(tmp_path, session):
    fasta = tmp_path / "x.fasta"
    fasta.write_text("".join(f">p{i}\nMKVLLA{'G' * (i % 300)}\n" for i in range(9_000)))
    settings = Settings(shard_size=0.01, val_fraction=0.2)
    convert_fasta([fasta], tmp_path / "one", settings=settings, progress=False)
    convert_fasta_on_spark(session, [fasta], tmp_path / "cluster", settings=settings)
    assert contents(tmp_path / "cluster") == contents(tmp_path / "one")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b">a\nMKV\n>b\nM5\n", r"x\.fasta, line 4: character '5'"),
        (b"", r"x\.fasta: empty"),
        (gzip.compress(b">a\nMKV\n" * 999)[:-9], r"x\.fasta: is cut short"),
        (b">a\nMKV\n", "none of the 1 proteins falls into validation"),
    ],
)
def test_errors_of_the_input_are_one_line(tmp_path, session, content, message):
    (tmp_path / "x.fasta").write_bytes(content)
    (tmp_path / "good.fasta").write_text(">a\nMKV\n")
    inputs = [tmp_path / "x.fasta"] if content == b">a\nMKV\n" else [tmp_path / "good.fasta", tmp_path / "x.fasta"]
    with pytest.raises(UserError, match=message) as caught:
        convert_fasta_on_spark(session, inputs, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.fasta", "x.fasta"]


@pytest.mark.parametrize(
    ("inputs", "out", "message"),
    [
        (["-"], "out", "-: a cluster cannot read standard input"),
        (["none.fasta"], "out", r"none\.fasta: no such file"),
        (["x"], "s3://bucket/x", "s3://bucket/x: a cluster writes to a folder"),
    ],
)
def test_what_a_cluster_cannot_do(tmp_path, session, inputs, out, message):
    with pytest.raises(UserError, match=message):
        convert_fasta_on_spark(session, inputs, out if "://" in out else tmp_path / out)


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_command(tmp_path):
    fasta = tmp_path / "x.fasta"
    fasta.write_text(">a\nMKV\n>b\nMA\n")
    command = ["spark-submit", "--master", "local[2]", str(ROOT / "convert" / "spark.py"), str(fasta), "--out"]
    result = run([*command, str(tmp_path / "out"), "--val-fraction", "0"])
    assert result.returncode == 0, result.stderr
    expected = convert_fasta([fasta], tmp_path / "one", val_fraction=0.0, progress=False)
    assert read_manifest(tmp_path / "out") == expected
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
    assert "train: 2 proteins, 5 residues" in result.stdout  # where spark-submit sends a program's stderr


def test_a_node_without_the_package_is_one_line(tmp_path, session, monkeypatch):
    (tmp_path / "x.fasta").write_text(">a\nMKV\n")
    monkeypatch.setattr(session.sparkContext, "pythonExec", str(write_bare_python(tmp_path)))
    with pytest.raises(UserError, match="Spark failed: ModuleNotFoundError: No module named ") as caught:
        convert_fasta_on_spark(session, [tmp_path / "x.fasta"], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out*"))


def write_bare_python(folder: Path) -> Path:
    """A Python that knows Spark and the standard library alone."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec {sys.base_prefix}/bin/python3 "$@"\n')
    path.chmod(0o755)
    return path


def test_no_java_is_one_line(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "x.fasta").write_text(">a\nMKV\n")
    result = run(
        [sys.executable, str(ROOT / "convert" / "spark.py"), str(tmp_path / "x.fasta"), "--out", str(tmp_path / "out")],
        JAVA_HOME=str(tmp_path),
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: Spark does not start: ")
    assert "Traceback" not in result.stderr

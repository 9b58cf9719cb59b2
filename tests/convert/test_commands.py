"""The converter's commands as a user runs them."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FASTA, HUGGINGFACE = ROOT / "convert" / "fasta.py", ROOT / "convert" / "huggingface.py"


def start(command: Path, *arguments: object) -> subprocess.Popen:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(command), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        # A shell that runs the tests in the background has them, and us, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen, data: bytes | None = None) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(data, timeout=120)
    return process.returncode, stdout.decode(), stderr.decode()


def fasta_text(proteins: int) -> bytes:
    return b"".join(b">%d\nMKVLLAGGWCDEFHIKNPQRSTY\n" % i for i in range(proteins))


def test_standard_input_and_json(tmp_path):
    out = tmp_path / "out"
    process = start(FASTA, "-", "--out", out, "--val-fraction", 0, "--processes", 1, "--json")
    code, stdout, stderr = finish(process, gzip.compress(b">a\nMKV\n>b\n\n"))
    assert code == 0, stderr
    assert json.loads(stdout) == json.loads((out / "manifest.json").read_text())
    assert json.loads(stdout)["sources"][0]["name"] == "-"
    assert "train: 1 proteins, 3 residues" in stderr
    assert "dropped: 1 empty" in stderr


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (FASTA, ["nowhere.fasta", "--out", "OUT"], "error: nowhere.fasta: no such file"),
        (FASTA, ["nowhere.fasta"], "error: the following arguments are required: --out (see --help)"),
        (FASTA, ["x", "--out", "OUT", "--procesess", "2"], "error: unrecognized arguments: --procesess"),
        (FASTA, ["x", "--out", "OUT", "--processes", "two"], "error: argument --processes: invalid int value: 'two'"),
        (FASTA, ["x", "--out", "OUT", "--max-unknown", "2"], "error: --max-unknown 2.0: must be between 0 and 1"),
        (HUGGINGFACE, ["nowhere.parquet", "--out", "OUT"], "error: nowhere.parquet: no such file"),
        (HUGGINGFACE, ["nobody/nothing", "--out", "OUT"], "error: nobody/nothing: cannot be loaded as a dataset: "),
    ],
)
def test_errors_are_one_line_and_exit_code_2(tmp_path, command, arguments, message):
    arguments = [str(tmp_path / "out") if argument == "OUT" else argument for argument in arguments]
    code, stdout, stderr = finish(start(command, *arguments))
    assert (code, stdout) == (2, "")
    assert stderr.startswith(message)
    assert stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def feed_until_converting(process: subprocess.Popen) -> None:
    """Returns when the conversion has read far more than the pipe can hold, and waits for more."""
    process.stdin.write(fasta_text(40_000))
    process.stdin.flush()


def test_a_killed_conversion_leaves_nothing_valid_and_the_next_run_succeeds(tmp_path):
    out = tmp_path / "out"
    options = ["-", "--out", out, "--val-fraction", 0, "--processes", 1]
    killed = start(FASTA, *options)
    feed_until_converting(killed)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL
    killed.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
    assert list(tmp_path.rglob("*.json")) == []

    code, _, stderr = finish(start(FASTA, *options), fasta_text(3))
    assert code == 0, stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert json.loads((out / "manifest.json").read_text())["splits"]["train"]["proteins"] == 3

    code, _, stderr = finish(start(FASTA, *options), fasta_text(3))
    assert (code, stderr.count("\n")) == (2, stderr.count("\n"))
    assert "exists; choose another --out, or replace it with --overwrite" in stderr


@pytest.mark.parametrize(
    ("number", "expected", "left"), [(signal.SIGTERM, 143, ["out.partial"]), (signal.SIGINT, 130, [])]
)
def test_a_stopped_conversion_cleans_up_unless_it_may_continue(tmp_path, number, expected, left):
    process = start(FASTA, "-", "--out", tmp_path / "out", "--processes", 2)
    feed_until_converting(process)
    process.send_signal(number)
    # Without more input a read that began just before the signal would wait; the end of the input wakes it.
    code, _, stderr = finish(process)
    assert code == expected
    assert "Traceback" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == left


@pytest.fixture(scope="module")
def large_fasta(tmp_path_factory) -> Path:
    """Enough proteins, at a level that is slow to compress, to be killed in the middle."""
    path = tmp_path_factory.mktemp("large") / "x.fasta.gz"
    random = np.random.default_rng(0)
    letters = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC", np.uint8)
    proteins = [bytes(random.choice(letters, random.integers(20, 400))) for _ in range(20_000)]
    with gzip.open(path, "wb", 1) as file:
        file.writelines(b">p%d\n%s\n" % item for item in enumerate(proteins))
    return path


SLOW = ("--val-fraction", 0.05, "--shard-size", 0.1, "--compression", "zstd:16")


def done_shards(out: Path) -> list[dict]:
    try:
        lines = out.with_name("out.partial").joinpath(".journal").read_text().split("\n")[1:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def kill_after(shards: int, out: Path, *arguments: object) -> list[Path]:
    """Kills the command once it has written so many shards; returns the files of the finished ones."""
    process = start(FASTA, *arguments, "--out", out)
    while len(done := done_shards(out)) < shards:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    process.communicate()
    done = done_shards(out)
    return [out.with_name("out.partial") / s["split"] / s["entry"]["zip_data"]["basename"] for s in done]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("options", [(), ("--deduplicate", "--processes", 2)])
def test_a_killed_conversion_is_continued(tmp_path, large_fasta, options):
    code, _, stderr = finish(start(FASTA, large_fasta, *SLOW, *options, "--out", tmp_path / "whole"))
    assert code == 0, stderr

    out = tmp_path / "out"
    first = kill_after(4, out, large_fasta, *SLOW, *options)
    times = {path: path.stat().st_mtime_ns for path in first}
    second = kill_after(len(first) + 9, out, large_fasta, *SLOW, *options)
    assert set(first) < set(second)
    assert times == {path: path.stat().st_mtime_ns for path in first}
    times = {path.relative_to(tmp_path / "out.partial"): path.stat().st_mtime_ns for path in second}

    code, _, stderr = finish(start(FASTA, large_fasta, *SLOW, *options, "--out", out))
    assert code == 0, stderr
    assert f"continuing the interrupted conversion in {out}.partial: {len(second)} shards are done" in stderr
    assert contents(out) == contents(tmp_path / "whole")
    assert times == {path: (out / path).stat().st_mtime_ns for path in times}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


@pytest.mark.parametrize(("change", "named"), [("arguments", "compression"), ("input", "inputs")])
def test_another_conversion_starts_over(tmp_path, large_fasta, change, named):
    fasta, out = tmp_path / "x.fasta.gz", tmp_path / "out"
    fasta.write_bytes(large_fasta.read_bytes())
    kill_after(3, out, fasta, *SLOW)
    options = [*SLOW[:-1], "zstd:1"]
    if change == "input":
        fasta.write_bytes(gzip.compress(b">new\nMKV\n") + large_fasta.read_bytes())
        options = list(SLOW)
    code, _, stderr = finish(start(FASTA, fasta, *options, "--out", out))
    assert code == 0, stderr
    assert f"starting over: the interrupted conversion in {out}.partial had other {named}" in stderr
    finish(start(FASTA, fasta, *options, "--out", tmp_path / "whole"))
    assert contents(out) == contents(tmp_path / "whole")

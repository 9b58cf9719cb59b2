"""A FASTA of any size becomes one file in its order, however often and in whatever company it was computed."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from plm_composer import embed
from plm_composer.errors import UserError
from plm_composer.hardware.processes import Team
from plm_composer.inference.embedding import proteome as driver
from plm_composer.inference.embedding.formats import ENDINGS, load_embeddings
from plm_composer.inference.embedding.portions import Bounds
from plm_composer.inference.embedding.proteome import embed_fasta
from plm_composer.inference.embedding.request import Request
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place
from plm_composer.model.weights.huggingface_folder import save_huggingface
from tests.commands import REPOSITORY
from tests.disks import SmallDisk
from tests.model.small_models import make_model

# Of two proteins, and duplicates, and names that are odd.
RECORDS = [("a", "MKVLLA"), ("a", "M"), ("", "ACDEFGHIKLMNPQRSTVWYXBZ" * 3), ("sp|P1 \u00e9, x=1", "GGG"), ("e", "MKV")]
PROTEINS = [protein for _, protein in RECORDS]
SMALL_PARTS = Bounds(proteins=2)
MEANS = Request()


@pytest.fixture(scope="module")
def model() -> ESM2:
    return make_model()


@pytest.fixture
def fasta(tmp_path: Path) -> str:
    path = tmp_path / "in" / "x.fasta"
    path.parent.mkdir()
    path.write_text("".join(f">{name}\n{protein}\n" for name, protein in RECORDS))
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def run(model: ESM2, fasta: str, out: Path, request: Request = MEANS, **options):
    return embed_fasta(model, fasta, out, request, Place(batch_tokens=20), bounds=SMALL_PARTS, **options)


@pytest.mark.parametrize("suffix", ENDINGS)
@pytest.mark.parametrize("layers", [(-1,), (0, 2)])
@pytest.mark.parametrize("kind", ["mean", "cls", "residues"])
def test_the_file_is_what_memory_would_hold(
    suffix: str, layers: tuple[int, ...], kind: str, model: ESM2, fasta: str, folder: Path
) -> None:
    done = run(model, fasta, folder / f"x{suffix}", Request(kind, layers, window=40))
    names, found = load_embeddings(folder / f"x{suffix}")
    expected = embed(model, PROTEINS, cls=kind == "cls", per_residue=kind == "residues", layers=layers, window=40)
    assert names == [name for name, _ in RECORDS]
    assert found.layers == expected.layers
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5)
    assert (done.proteins, done.rows, done.hidden_size) == (5, len(expected.values), 32)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
    assert [path.name for path in folder.iterdir()] == [f"x{suffix}"]


def test_half_precision(model: ESM2, fasta: str, folder: Path) -> None:
    run(model, fasta, folder / "x.npz")
    run(model, fasta, folder / "half.npz", Request(dtype="float16"))
    half = load_embeddings(folder / "half.npz")[1].values
    np.testing.assert_array_equal(half, load_embeddings(folder / "x.npz")[1].values.astype(np.float16))


def test_stdin_and_compressed_files(model: ESM2, fasta: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(model, fasta, folder / "plain.npz")
    packed = folder / "x.fasta.gz"
    packed.write_bytes(gzip.compress(Path(fasta).read_bytes()))
    run(model, str(packed), folder / "packed.npz")
    with packed.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        run(model, "-", folder / "piped.npz")
    expected = (folder / "plain.npz").read_bytes()
    assert (folder / "packed.npz").read_bytes() == (folder / "piped.npz").read_bytes() == expected
    with pytest.raises(UserError, match="one process alone can read stdin"):
        run(model, "-", folder / "x.npz", team=Team(0, 2))


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_parts(size: int, model: ESM2, fasta: str, folder: Path) -> None:
    run(model, fasta, folder / "alone.npz")
    meeting = threading.Barrier(size)

    class Threads(Team):
        def wait(self) -> None:
            meeting.wait(60)

    others = [
        threading.Thread(target=run, args=(make_model(), fasta, folder / "x.npz"), kwargs={"team": Threads(rank, size)})
        for rank in range(1, size)
    ]
    for other in others:
        other.start()
    run(model, fasta, folder / "x.npz", team=Threads(0, size))
    for other in others:
        other.join()
    assert (folder / "x.npz").read_bytes() == (folder / "alone.npz").read_bytes()


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupted(model: ESM2, fasta: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output of a command that broke off after the second of three parts."""
    real, calls = driver.embed_proteins, []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise Interrupted
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(driver, "embed_proteins", fail)
        run(model, fasta, folder / "x.npz")
    assert sorted(path.name for path in (folder / "x.npz.parts").glob("0*")) == [
        "000000.safetensors",
        "000001.safetensors",
    ]
    assert not (folder / "x.npz").exists()
    return folder / "x.npz"


def test_it_continues(interrupted: Path, model: ESM2, fasta: str, folder: Path, capsys) -> None:
    run(model, fasta, folder / "whole.npz")
    done = run(model, fasta, interrupted)
    assert done.continued == 2
    assert "continues after 2 finished parts" in capsys.readouterr().err
    assert interrupted.read_bytes() == (folder / "whole.npz").read_bytes()
    assert not (folder / "x.npz.parts").exists()


def test_it_does_not_continue_with_anything_else(interrupted: Path, model: ESM2, fasta: str) -> None:
    before = sorted(interrupted.with_name("x.npz.parts").iterdir())
    for request, what in [
        (Request("cls"), r"kind \(mean, --cls, --per-residue\)"),
        (Request(layers=(1,)), "--layers"),
        (Request(dtype="float16"), "--dtype"),
        (Request(window=100), "--window"),
    ]:
        with pytest.raises(UserError, match=f"holds parts made with another {what}; give what"):
            run(model, fasta, interrupted, request)
    with pytest.raises(UserError, match="holds parts made with another model;"):
        run(make_model(seed=1), fasta, interrupted)
    with pytest.raises(UserError, match="another --precision"):
        place = Place(autocast_dtype=torch.bfloat16)
        embed_fasta(model, fasta, interrupted, Request(), place, bounds=SMALL_PARTS)
    text = Path(fasta).read_text()
    Path(fasta).write_text(text.replace("GGG", "GGA"))
    with pytest.raises(UserError, match=r"another FASTA \(it differs from the 2\. part on\); give"):
        run(model, fasta, interrupted)
    Path(fasta).write_text(">a\nMKVLLA\n>a\nM\n")
    with pytest.raises(UserError, match=r"another FASTA \(it was longer\)"):
        run(model, fasta, interrupted)
    Path(fasta).write_text(text)
    assert sorted(interrupted.with_name("x.npz.parts").iterdir()) == before
    run(model, fasta, interrupted)


def test_damaged_parts_are_told(interrupted: Path, model: ESM2, fasta: str) -> None:
    parts = interrupted.with_name("x.npz.parts")
    (parts / "000001.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"000001\.safetensors: is damaged; remove it"):
        run(model, fasta, interrupted)
    (parts / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"has no readable manifest\.json; remove the folder"):
        run(model, fasta, interrupted)


def test_two_commands_do_not_write_one_file(interrupted: Path, model: ESM2, fasta: str) -> None:
    with FileLock(interrupted.with_name("x.npz.parts") / "lock"), pytest.raises(UserError, match="another process"):
        run(model, fasta, interrupted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty, without a single FASTA record"),
        (">a\nMK\n>b\n", "record 'b': empty; fix or remove it"),
        (">a\nMK\n>b\nM1K\n", "line 4: character '1' in a sequence"),
        ("MKV\n", "not FASTA"),
    ],
)
def test_a_bad_fasta_is_told_before_anything_is_computed(
    text: str, message: str, model: ESM2, fasta: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "embed_proteins", None)
    Path(fasta).write_text(text)
    with pytest.raises(UserError, match=message):
        run(model, fasta, folder / "x.npz")
    with pytest.raises(UserError, match="no such file"):
        run(model, "none.fasta", folder / "x.npz")
    assert list(folder.iterdir()) == []


def test_a_name_that_the_format_cannot_hold_is_told_first(model: ESM2, fasta: str, folder: Path) -> None:
    Path(fasta).write_text(">a\0b\nMKV\n")
    with pytest.raises(UserError, match="has a NUL, which"):
        run(model, fasta, folder / "x.h5")
    run(model, fasta, folder / "x.npz")


def test_a_full_disk_is_told_first_and_in_one_line(model: ESM2, fasta: str, small_disk: SmallDisk) -> None:
    disk = small_disk("3M")
    with pytest.raises(UserError, match=r"x\.npz: needs 0\.00 GB, for the file and its parts, .* has 0\.00 GB free"):
        (disk.path / "other").write_bytes(bytes(2 << 20))
        run(model, fasta, disk.path / "x.npz")
    assert [path.name for path in disk.path.iterdir()] == ["other"]
    # A stream has no known size: its parts stay, and the same command continues where there is room.
    (disk.path / "other").unlink()
    many = Path(fasta).with_name("many.fasta")
    many.write_text("".join(f">{index}\n{'MKVLLA' * 100}\n" for index in range(100)))
    request, bounds = Request("residues", window=0), Bounds(proteins=10)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device; the same command continues"):
        feed(model, many, disk.path / "x.h5", request, bounds)
    assert len(list((disk.path / "x.h5.parts").glob("0*"))) > 1
    disk.resize("40m")
    feed(model, many, disk.path / "x.h5", request, bounds)
    assert load_embeddings(disk.path / "x.h5")[1].values.shape == (60_000, 32)


def feed(model: ESM2, fasta: Path, out: Path, request: Request, bounds: Bounds) -> None:
    """Embeds from stdin."""
    with fasta.open("rb") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(file))
        embed_fasta(model, "-", out, request, Place(), bounds=bounds)


@pytest.fixture(scope="module")
def proteome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a FASTA of two parts, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("proteome")
    save_huggingface(make_model(), folder / "model")
    generator = np.random.default_rng(0)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype=np.uint8)
    with (folder / "x.fasta").open("wb") as file:
        for index, length in enumerate(generator.integers(40, 500, 1500)):
            file.write(b">protein %d\n%s\n" % (index, generator.choice(letters, length).tobytes()))
    embed_fasta(make_model(), str(folder / "x.fasta"), folder / "whole.npz", Request(), Place())
    return folder


COMMAND = ("-m", "plm_composer.cli", "embed", "model", "x.fasta", "--out")


def start(folder: Path, *words: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [str(word) for word in words]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.faults
def test_a_killed_process_continues(proteome: Path) -> None:
    killed = start(proteome, sys.executable, *COMMAND, "killed.npz")
    while killed.poll() is None and not (proteome / "killed.npz.parts" / "000000.safetensors").exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            killed.wait(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (proteome / "killed.npz").exists()
    again = start(proteome, sys.executable, *COMMAND, "killed.npz")
    assert "continues after 1 finished parts" in again.communicate()[1]
    assert again.returncode == 0
    assert (proteome / "killed.npz").read_bytes() == (proteome / "whole.npz").read_bytes()


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(proteome: Path) -> None:
    composer = Path(sys.executable).with_name("composer")
    together = start(proteome, composer, "-n", "2", *COMMAND, "together.npz")
    messages = together.communicate()[1]
    assert together.returncode == 0, messages
    assert (proteome / "together.npz").read_bytes() == (proteome / "whole.npz").read_bytes()
    # What is wrong is said by the first process, and ends all.
    refused = start(proteome, composer, "-n", "2", *COMMAND[:-2], "none.fasta", "--out", "none.npz")
    assert "error: none.fasta: no such file" in refused.communicate()[1]
    assert refused.returncode != 0

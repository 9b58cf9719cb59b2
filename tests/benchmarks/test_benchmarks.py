"""The benchmarks run, see the same proteins everywhere, and write what they say they write."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
import torch.nn.functional as F

from plm_composer.model.attention import BACKENDS
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.run.automatic import provisional
from plm_composer.run.load import load_config
from plm_composer.run.parts import make_parts
from plm_composer.sample import TRAIN_FASTA
from tests.test_docs import write_proteins

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))


def run(repository: Path, tmp_path: Path, name: str, *arguments: str) -> list[dict]:
    rows = tmp_path / "rows.json"
    result = subprocess.run(
        [sys.executable, repository / "benchmarks" / f"{name}.py", *arguments, "--json", rows],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "|--" in result.stdout  # a table
    return json.loads(rows.read_text())


def test_train_step(repository, tmp_path) -> None:
    rows = run(
        repository, tmp_path, "train_step", "--crop", "32", "--proteins", "4", "--batches", "1", "--repeats", "1",
        "--precision", "fp32", "--implementation", "transformers", "unpadded",
    )  # fmt: skip
    assert [row["implementation"] for row in rows] == ["transformers", "ours: unpadded"]
    for row in rows:
        assert (row["precision"], row["crop"]) == ("fp32", 32)
        # Models of a step or two, on masked residues alone: ln 33 is 3.50, ln 20 is 3.00.
        assert 2 < row["last_loss"] < 4
        assert 0 < row["mfu"] < 1.5
        assert row["peak_memory_mb"] > 0
        assert row["first_step_seconds"] > 0
    assert rows[1]["ratio"] == pytest.approx(rows[1]["real_tokens_per_second"] / rows[0]["real_tokens_per_second"])


def test_train_step_compiled_and_what_a_datasheet_says(repository, tmp_path, monkeypatch) -> None:
    small = ("--crop", "32", "--proteins", "2", "--batches", "1", "--repeats", "1", "--precision", "bf16")
    named = ("--implementation", "transformers, compiled", "ours: fast, compiled", "--compile")
    rows = run(repository, tmp_path, "train_step", *small, *named)
    assert [row["implementation"] for row in rows] == ["transformers, compiled", "ours: fast, compiled"]
    for row in rows:
        assert 2 < row["last_loss"] < 4
        assert row["first_step_seconds"] > 1  # it compiles

    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import train_step

    one = train_step.Contender("ours: fast", "bf16", "esm2_8m", 32, (), 2, ())
    step = {"seconds": 1.0, "flops": 1e12, "tokens": 1, "positions": 1, "memory": 1, "loss": 3.0}
    row = train_step.make_row(one, train_step.Outcome([step], step), 4e12, 2e12, 2)
    assert (row["mfu"], row["datasheet_mfu"]) == (0.25, 0.5)


def test_a_contender_that_fails_has_a_row(repository, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import train_step

    one = train_step.Contender("fair-esm", "bf16", "esm2_8m", 32, (), 2, ())
    row = train_step.make_row(one, train_step.Outcome([], failure="exit code 3"), 1.0, None, 2)
    train_step.add_ratios([row])
    assert train_step.summary_of(row) == "fair-esm, bf16: exit code 3"
    assert "batch_size" not in row


def test_batches_are_sent_before_a_step_and_its_loss_is_read_after_it(repository, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import machine
    import train_step

    sent = machine.send({"labels": torch.ones(2), "lengths": np.ones(2)}, torch.device("meta"))
    assert sent["labels"].is_meta
    assert isinstance(sent["lengths"], np.ndarray)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = train_step.take_step(model, optimizer, "fp32", lambda outputs, _: outputs.square().sum(), torch.ones(1))
    assert isinstance(loss, torch.Tensor)
    assert not loss.requires_grad


def test_embed(repository, tmp_path) -> None:
    rows = run(
        repository, tmp_path, "embed", "--proteins", "6", "--pieces", "1", "--precision", "fp32",
        "--implementation", "transformers, sorted", "ours",
    )  # fmt: skip
    assert [row["implementation"] for row in rows] == ["transformers, sorted", "ours"]
    assert rows[1]["ratio"] == pytest.approx(rows[1]["residues_per_second"] / rows[0]["residues_per_second"])
    (row,) = run(repository, tmp_path, "embed", "--memory", "20")
    assert 50 < row["memory_mb"] < 5000


def test_attention(repository, tmp_path) -> None:
    rows = run(repository, tmp_path, "attention", "--tokens", "256", "--head-size", "16", "64", "--repeats", "1")
    assert {(row["head_size"], row["backend"]) for row in rows} >= {(16, "reference"), (64, "reference")}
    for row in rows:
        assert row["milliseconds"] > 0
        assert row["other_lengths"] > 0
        assert row["difference"] < (1e-6 if row["backend"] == "reference" else 0.1)  # bf16


def test_attention_that_fails_leaves_the_others(repository, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import attention

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("there is no kernel\nfor this")

    cpu = torch.device("cpu")
    work = attention.draw_work([5, 7], 2, 8, cpu, torch.float32)
    contenders = [attention.Contender("fails", fail), attention.Contender("works", BACKENDS["reference"])]
    failed, worked = attention.measure(contenders, work, work, cpu, 1)
    assert failed == {"backend": "fails", "failure": "RuntimeError: there is no kernel"}
    assert worked["difference"] < 1e-6
    assert worked["milliseconds"] > 0


def test_kernels_of_others_get_what_they_expect(repository, monkeypatch) -> None:
    """As far as a CPU can show it: their schemas, and which of them is in place while one is measured."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import attention

    cpu = torch.device("cpu")
    work = attention.draw_work([5, 7], 2, 8, cpu, torch.float32)
    # An argument too many, or of a wrong type, would be refused with another error.
    with pytest.raises(NotImplementedError, match="_cudnn_attention_forward"):
        attention.attend_cudnn(*work.tensors, work.proteins)
    assert {each.name for each in attention.find_contenders(cpu, torch.float32)} <= BACKENDS.keys()

    in_place: list[str] = []

    def activate(name: str) -> None:
        if name == "missing":
            raise ImportError("there is no such package")
        in_place.append(name)

    registry = SimpleNamespace(activate_flash_attention_impl=activate, restore_flash_attention_impl=in_place.clear)
    monkeypatch.setattr(attention, "FLASH_ATTENTIONS", registry)
    contender = attention.Contender("flash, FA4", BACKENDS["flash"], "FA4")
    with pytest.raises(ZeroDivisionError), contender.in_place():
        assert in_place == ["FA4"]
        raise ZeroDivisionError
    assert in_place == []
    assert attention.is_installed(contender)
    assert not attention.is_installed(attention.Contender("flash, FA5", BACKENDS["flash"], "missing"))


@pytest.mark.skipif(TORCH < (2, 11), reason="older torches cannot pretend a GPU")
def test_gpu_kernels(repository, tmp_path) -> None:
    yaml = str(repository / "yamls" / "esm2_small.yaml")
    rows = run(repository, tmp_path, "gpu_kernels", yaml, "--tokens", "1024")
    for direction, products in (("forward", 4), ("backward", 8)):
        kinds = [row["kind"] for row in rows if row["direction"] == direction]
        assert (kinds.count("product"), kinds.count("attention"), kinds[-1]) == (products, 1, "all fused")
    # Queries and keys, rotated, what has queries, keys and values in it, and the result.
    attention = next(row for row in rows if row["kind"] == "attention")
    assert attention["passes"] == pytest.approx(6, rel=0.05)
    assert attention["milliseconds"] == pytest.approx(1e3 * attention["passes"] * 2 * 1024 * 320 / 3.35e12)


@pytest.mark.skipif(TORCH < (2, 11), reason="older torches cannot pretend a GPU")
@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("--tokens=100", "100 tokens are not a multiple of 256"),
        ("model.position_embedding_type=alibi", "kernels with ALiBi are only in the package flash-attn"),
    ],
)
def test_gpu_kernels_of_what_cannot_be_refuses(repository, argument: str, error: str) -> None:
    command = [sys.executable, repository / "benchmarks" / "gpu_kernels.py", repository / "yamls" / "esm2_small.yaml"]
    refused = subprocess.run([*command, argument], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {error}")
    assert refused.stderr.count("\n") == 1


def test_contacts(repository, tmp_path) -> None:
    rows = run(
        repository, tmp_path, "contacts", "--length", "12", "--proteins", "2", "--jacobian-length", "4",
        "--fit-pairs", "200", "--repeats", "1",
    )  # fmt: skip
    assert [row["implementation"] for row in rows][1::2] == ["ours", "ours"]
    assert all(row["seconds"] > 0 for row in rows)


@pytest.fixture(autouse=True)
def launcher_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes away what Composer has set for trainings in this process: transformers' Trainer would wait for others."""
    for name in ("NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
def test_loop(repository, tmp_path, tiny) -> None:
    # It resumes by itself, which a run without checkpoints cannot.
    yaml = (str(repository / "yamls" / "cramming.yaml"), "recipe=cramming", "data.fasta=sample")
    trained, bare = run(repository, tmp_path, "loop", *yaml, *tiny, "--batches", "8", "--repeats", "1")
    assert (trained["what"], bare["what"]) == ("train.py", "bare step")
    assert trained["real_tokens_per_second"] > 0
    assert bare["share"] == 1


def test_loop_goes_through_several_epochs(repository, small_set, tiny, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import loop

    # Three batches an epoch, and more than these are left out at the start.
    overrides = (*tiny, f"data.local={small_set / 'shards'}", "global_train_batch_size=80")
    assert loop.step(repository / "yamls" / "esm2_small.yaml", overrides, batches=7) > 0


def test_loop_trains_what_resumes_by_itself(repository, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import loop

    overrides = ("recipe=cramming", "data.fasta=sample", *loop.for_some_batches(8, tmp_path / "run"))
    config = make_parts(load_config(repository / "yamls" / "cramming.yaml", overrides)).config
    assert (config.max_duration, config.save_folder) == ("8ba", None)


def test_profile_step(repository, tmp_path) -> None:
    few = ("--proteins", "2", "--warm-up", "1", "--kernels", "3")
    rows = run(repository, tmp_path, "profile_step", *few, "--implementation", "ours: fast")
    assert len(rows) == 3
    times = [row["milliseconds"] for row in rows]
    assert times == sorted(times, reverse=True)
    assert {"aten::mm", "aten::addmm"} & {row["kernel"] for row in rows}
    assert 0 < sum(row["share"] for row in rows) <= 1


def test_step_cost(repository, tmp_path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        f"yaml: {repository / 'yamls' / 'esm2_small.yaml'}\n"
        "common: [model.num_hidden_layers=1, model.hidden_size=32, model.num_attention_heads=2, data.crop_length=64]\n"
        "seeds: [1]\nreference: thin\nvariants:\n  wide: [model.intermediate_size=32768]\n  thin: []\n"
    )
    wide, thin = run(repository, tmp_path, "step_cost", str(study), "--proteins", "8", "--repeats", "5")
    assert (wide["variant"], thin["variant"]) == ("wide", "thin")
    assert wide["ratio"] > thin["ratio"] == 1


def test_loader(repository, tmp_path) -> None:
    rows = run(repository, tmp_path, "loader", "--limit", "200", "--batch-size", "20", "--repeats", "1")
    in_memory = [row for row in rows if "real_tokens_per_second" in row]
    assert [row["implementation"] for row in in_memory][-1] == "ours"
    assert all(row["real_tokens_per_second"] > 0 for row in in_memory)


def test_convert(repository, tmp_path) -> None:
    rows = run(repository, tmp_path, "convert", "--proteins", "500", "--repeats", "1")
    assert {row["input"] for row in rows} == {"plain", ".gz"}
    assert all(row["proteins_per_second"] > 0 for row in rows)


@pytest.mark.slow
def test_loss_curves(repository, tmp_path) -> None:
    proteins, result, plot = tmp_path / "val.fasta", tmp_path / "curves.json", tmp_path / "curves.svg"
    write_proteins(proteins, 20)
    command = [sys.executable, repository / "benchmarks" / "loss_curves.py", "--json", result]
    train = ["--train", TRAIN_FASTA, "--val", proteins, "--seconds", "60", "--seeds", "1"]
    subprocess.run([*command, *train, "--plot", plot], check=True, stdout=subprocess.DEVNULL)
    rows = json.loads(result.read_text())["rows"]
    assert len(rows) == 3
    for row in rows:
        times = [at for at, _ in row["curve"]]
        assert 2 <= len(times) <= 9
        assert times == sorted(times)
        assert times[-1] <= row["seconds"] < 66
        assert 2.5 < row["loss"] < 3.5
    assert "<svg" in plot.read_text()


def test_loss_curves_of_a_gpu(repository, tmp_path, monkeypatch) -> None:
    """Its contenders are configs that exist, and the reference is the published recipe."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import loss_curves

    configs = []
    for command, _ in loss_curves.CONTENDERS["cuda"].values():
        _, _, yaml, *overrides = command(tmp_path / "train.fasta", tmp_path / "run", 240, 1)
        configs.append(load_config(yaml, overrides))
        make_parts(provisional(configs[-1]))
        assert configs[-1].budget == "240s"
    reference = configs[-1]
    assert reference.model["name"] == "cramming_67m"
    assert (reference.data.batch_format, reference.data.crop_length) == ("padded_to_crop_length", 512)
    assert (reference.data.mask_rate, reference.data.mask_token_fraction) == (0.25, 1)
    assert (reference.optimizer["name"], reference.optimizer["lr"]) == ("adamw", 1e-3)
    assert reference.algorithms["gradient_clipping"] == {"clipping_type": "norm", "clipping_threshold": 0.5}
    assert reference.precision == "amp_bf16"


def test_loss_curves_are_drawn_for_the_machine_that_they_are_of(repository, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import loss_curves

    committed = json.loads((repository / "benchmarks" / "results" / "loss_curves.json").read_text())
    assert loss_curves.names_of(committed["rows"]) == list(loss_curves.CONTENDERS["cpu"])
    rows = [{"contender": name, "curve": [[10, 3.0], [20, 2.9]]} for name in loss_curves.CONTENDERS["cuda"]]
    for gpu, where in (("NVIDIA H100", "NVIDIA H100"), (None, "two CPU cores")):
        loss_curves.draw({"gpu": gpu, "rows": rows}, tmp_path / "curves.svg")
        assert f"minutes from the start of the command, {where}" in (tmp_path / "curves.svg").read_text()


@pytest.mark.slow
def test_store(repository, tmp_path, small_set, tiny) -> None:
    shards = str(small_set / "shards")
    rows = run(
        repository, tmp_path, "store", "--local", shards, "--remote", shards, "--batches", "4", "--warm-up", "1",
        "--repeats", "1", *tiny,
    )  # fmt: skip
    assert [row["implementation"] for row in rows] == ["local", "remote"]
    assert rows[1]["ratio"] == pytest.approx(rows[1]["real_tokens_per_second"] / rows[0]["real_tokens_per_second"])


@pytest.mark.slow
def test_memory(repository, tmp_path) -> None:
    rows = run(repository, tmp_path, "memory")
    assert [(row["tokens"], row["checkpointing"]) for row in rows] == [
        (2048, "no"),
        (2048, "yes"),
        (6000, "no"),
        (6000, "yes"),
    ]
    for row in rows:
        assert row["returned"] == pytest.approx(1, rel=0.15)
        # Training on a CPU trades memory for speed: how much is documented, and should not grow unnoticed.
        assert 1 < row["kept"] < 2


def test_exports(repository, tmp_path, finished_run) -> None:
    (row,) = run(repository, tmp_path, "exports", str(finished_run.folder), "--proteins", "2")
    assert float(row["fp32"]) < 1e-5
    assert float(row["fp64"]) < 1e-6
    assert row["logits"] > 0.1


def test_speedrun(repository, tmp_path, monkeypatch) -> None:
    """The parts of the protocol; benchmarks/speedrun.py itself takes its 300 seconds."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import speedrun

    sequence = b"MKTAYIAKQRQISFVKSHFSRQXXUZOB" * 20
    windows = speedrun.cut(sequence)
    assert [len(window) for window in windows] == [254, 254, 560 - 508]
    assert b"".join(windows) == sequence
    (tmp_path / "two.fasta").write_bytes(b">a\n" + sequence.lower() + b"\n>b\nMK\n>c\nMV\n")
    table = pyarrow.table({"sequence": [sequence.decode(), "MK", "MV"]})
    pyarrow.parquet.write_table(table, tmp_path / "two.parquet")
    for name in ("two.fasta", "two.parquet"):
        assert list(speedrun.read_sequences(tmp_path / name, 2)) == [sequence, b"MK"]

    model = ESM2(ESM2Config(2, 32, 2, 64)).eval()
    score = speedrun.evaluate(model, windows, torch.device("cpu"), batch_size=2)
    losses, hits = [], []
    for number, window in enumerate(windows):
        ids = torch.from_numpy(speedrun.tokenize(window))[None]
        draws = torch.rand(256, generator=torch.Generator().manual_seed(42 + number))
        hidden = (draws < 0.15) & (ids[0] >= 4) & (ids[0] <= 28)
        with torch.inference_mode():
            logits = model(torch.where(hidden, 32, ids), attention_mask=ids != 1)[0, hidden]
        losses += F.cross_entropy(logits, ids[0, hidden], reduction="none").tolist()
        hits += (logits.argmax(-1) == ids[0, hidden]).tolist()
    assert score.masked == len(losses)
    assert score.loss == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert score.accuracy == pytest.approx(sum(hits) / len(hits))

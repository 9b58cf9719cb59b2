"""What a run chooses for itself: from a budget to numbers, the same ones when it continues."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import pytest
import torch
import yaml

from plm_composer.config.schema import DataConfig, TrainConfig
from plm_composer.data.batches import is_packed
from plm_composer.errors import UserError
from plm_composer.model.config import ESM2Config
from plm_composer.run import automatic
from plm_composer.run.amount import Amount, estimate_amount, unknown_amount
from plm_composer.run.automatic import choose, provisional, wants_choice
from plm_composer.run.load import load_config
from plm_composer.run.memory import predict_memory
from plm_composer.run.parts import make_parts
from plm_composer.run.step_timing import Speed, measure, random_batch
from plm_composer.run_folder import RunFolder
from plm_composer.sample import TRAIN_FASTA
from plm_composer.shards.convert import convert_fasta
from tests.commands import REPOSITORY, run_in

AUTO = REPOSITORY / "yamls" / "auto.yaml"


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 100 GFLOP/s, whatever the model."""

    def speed(_config: TrainConfig, model: ESM2Config, *_: object) -> Speed:
        return Speed(1e11 / (6 * 12 * model.num_hidden_layers * model.hidden_size**2), 1e11)

    monkeypatch.setattr(automatic, "measure", speed)


def chosen(*overrides: str) -> TrainConfig:
    return choose(load_config(AUTO, overrides))


def test_the_size_and_the_batch_grow_with_the_budget(steady: None, capsys: pytest.CaptureFixture[str]) -> None:
    found = [chosen(f"budget={budget}", "data={remote: s3://b/c}") for budget in ("1min", "2h", "300h", "9000h")]
    widths = [config.model["hidden_size"] for config in found]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]
    batches = [int(config.global_train_batch_size) for config in found]
    assert batches == sorted(batches)
    assert batches[0] == 16
    assert all(not wants_choice(config) for config in found)
    assert found[0].model["qk_norm"] is True  # the recipe's
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "M parameters)" in lines[0]
    assert "proteins a batch, lr 0.02, adamw_lr 0.003" in lines[0]


def test_few_data_do_not_need_a_large_model(steady: None) -> None:
    few, many = (chosen("budget=9000h", data) for data in ("data.fasta=sample", "data={remote: s3://b/c}"))
    assert few.model["num_hidden_layers"] < many.model["num_hidden_layers"]


def test_a_model_fits_into_the_memory(steady: None, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = chosen("budget=9000h", "data={remote: s3://b/c}")
    monkeypatch.setattr(automatic, "free_memory", lambda _device: 300_000_000)
    tight = chosen("budget=9000h", "data={remote: s3://b/c}")
    assert tight.model["hidden_size"] < roomy.model["hidden_size"]
    assert predict_memory(make_parts(dataclasses.replace(tight, data=DataConfig(fasta="sample")))).memory.total < 4e8


def test_a_manifest_of_the_working_folder_is_not_that_of_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_fasta([TRAIN_FASTA], tmp_path, progress=False)
    monkeypatch.chdir(tmp_path)
    assert estimate_amount(DataConfig(remote="s3://bucket/shards")) == unknown_amount(512)


def test_a_manifest_says_what_shards_hold(tmp_path: Path) -> None:
    convert_fasta([TRAIN_FASTA], tmp_path / "shards", progress=False)
    found = estimate_amount(DataConfig(local=str(tmp_path / "shards")))
    expected = estimate_amount(DataConfig(fasta="sample"))
    assert estimate_amount(DataConfig(fasta="gone.fasta", local=str(tmp_path / "shards"))) == found
    assert found.proteins == pytest.approx(expected.proteins, rel=0.01)
    assert (found.length, found.crop) == pytest.approx((expected.length, expected.crop), rel=0.03)


@pytest.mark.parametrize("processes", [1, 3, 5, 7, 8, 12, 64])
def test_every_process_gets_as_many_proteins(
    steady: None, monkeypatch: pytest.MonkeyPatch, processes: int, tmp_path: Path
) -> None:
    monkeypatch.setattr(automatic.dist, "get_world_size", lambda: processes)
    for budget in ("1min", "2h", "9000h"):
        size = chosen(f"budget={budget}", "data={remote: s3://b/c}").global_train_batch_size
        assert size >= 8
        assert size % processes == 0
    (tmp_path / "few.fasta").write_text("".join(f">{number}\nMKVLAAGIV\n" for number in range(200)))
    assert chosen("budget=9000h", f"data.fasta={tmp_path / 'few.fasta'}").global_train_batch_size <= max(32, processes)


def test_a_batch_holds_the_microbatch_that_is_given(steady: None) -> None:
    few = ("budget=1min", "device_train_microbatch_tokens=null", "device_train_microbatch_size=24")
    assert provisional(load_config(AUTO, few)).global_train_batch_size == 24
    assert chosen(*few).global_train_batch_size == 24


def test_a_rate_that_is_no_number_is_left_to_the_optimizer_to_refuse(steady: None) -> None:
    with pytest.raises(UserError, match=r"optimizer\.lr"):
        make_parts(chosen("optimizer.lr=fast"))
    with pytest.raises(UserError, match=r"optimizer\.lr is not set, and another optimizer\.name drops"):
        make_parts(chosen("optimizer.name=adamw"))


def test_what_is_given_holds(steady: None) -> None:
    config = chosen("model.hidden_size=128", "global_train_batch_size=24", "optimizer.lr=0.04")
    assert (config.model["hidden_size"], config.model["num_attention_heads"]) == (128, 2)
    assert (config.global_train_batch_size, config.optimizer["lr"], config.optimizer["adamw_lr"]) == (24, 0.04, 3e-3)
    config = chosen("model.num_attention_heads=3", "budget=1min")
    assert (config.model["hidden_size"], config.model["num_attention_heads"]) == (192, 3)
    config = chosen("model.attention_head_size=32")
    assert config.model["num_attention_heads"] == config.model["hidden_size"] // 32
    config = chosen("model=esm2_35m", "optimizer={name: adamw, lr: auto}")
    assert config.model["qk_norm"]  # the recipe's
    assert config.model["name"] == "esm2_35m"
    assert 1e-4 < config.optimizer["lr"] < 1e-2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["max_duration=1ep"], "auto needs a budget"),
        (["optimizer={name: lion, lr: auto}"], "optimizer.lr is auto, which is known for muon, normuon, adamw"),
        (["model.num_attention_heads=11"], "model.hidden_size: 64 over 11 heads gives no even head width"),
        (["model={pretrained: somewhere}"], "model.pretrained has its own size and data"),
        (["model.hidden_size=wide"], "model.hidden_size is 'wide'; it must be a whole number"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(steady: None, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(load_config(AUTO, overrides))


def test_a_speed_is_that_of_the_model() -> None:
    config = provisional(load_config(AUTO))
    small, large = (
        measure(config, ESM2Config(2, width, 2, 4 * width), Amount(100, 100, 102), torch.device("cpu"))
        for width in (32, 256)
    )
    assert small.tokens > large.tokens > 0
    assert small.flops > 0


def test_what_is_timed_is_as_the_run_has_it() -> None:
    amount = Amount(100, 60, 62)
    packed, padded = (
        random_batch(provisional(load_config(AUTO, overrides)), amount, 2048)
        for overrides in ([], ["data.batch_format=padded_to_crop_length"])
    )
    assert is_packed(packed)
    assert 2048 <= packed["lengths"].sum() < 2048 + 512
    assert tuple(padded["input_ids"].shape) == (4, 512)
    config = provisional(load_config(AUTO, ["device_train_microbatch_tokens=512", "activation_checkpointing=true"]))
    assert measure(config, ESM2Config(2, 64, 2, 256), amount, torch.device("cpu")).tokens > 0
    with pytest.raises(UserError, match=r"data\.crop_length is 1"):
        random_batch(provisional(load_config(AUTO, ["data.crop_length=1"])), amount, 2048)


def test_the_amount_is_estimated_from_the_first_proteins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no shards of the sample lie
    text = gzip.decompress(TRAIN_FASTA.read_bytes())
    lines = text.split(b"\n")
    headers = sum(line.startswith(b">") for line in lines)
    residues = sum(len(line) for line in lines if not line.startswith(b">"))
    found = estimate_amount(DataConfig(fasta="sample"))
    assert (found.proteins, found.length) == (headers, residues / headers)
    assert found.crop < found.length + 2
    (tmp_path / "twice.fasta.gz").write_bytes(gzip.compress(text * 12))
    estimated = estimate_amount(DataConfig(fasta=str(tmp_path / "twice.fasta.gz")))
    assert estimated.proteins == pytest.approx(12 * headers, rel=0.2)
    assert estimate_amount(DataConfig(remote="s3://bucket/shards")) == unknown_amount(512)
    for name, content in {"broken.gz": b"\x1f\x8b\x08\x00" + bytes(40), "empty": b"", "other": b"no FASTA"}.items():
        (tmp_path / name).write_bytes(content)
        assert estimate_amount(DataConfig(fasta=str(tmp_path / name))) == unknown_amount(512)
    assert estimate_amount(DataConfig(fasta="-")) == unknown_amount(512)
    with pytest.raises(UserError, match=r"none\.fasta: no such file"):
        estimate_amount(DataConfig(fasta=str(tmp_path / "none.fasta")))


def test_a_run_that_continues_keeps_what_it_chose(
    steady: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"run_folder={tmp_path}"
    first = chosen("budget=2h", folder)
    RunFolder(tmp_path).write_config(first)
    capsys.readouterr()
    again = chosen("budget=9000h", folder, "autoresume=true")
    assert {**again.model, "batch": again.global_train_batch_size, **again.optimizer} == {
        **first.model, "batch": first.global_train_batch_size, **first.optimizer
    }  # fmt: skip
    assert capsys.readouterr().err == ""


def test_a_run_that_continues_keeps_what_is_given(steady: None, tmp_path: Path) -> None:
    resumed = ("budget=1min", f"run_folder={tmp_path}", "autoresume=true")
    RunFolder(tmp_path).write_config(chosen("budget=1min", f"run_folder={tmp_path}"))
    again = chosen(*resumed, "model.hidden_size=128", "optimizer.lr=0.01")
    assert (again.model["hidden_size"], again.optimizer["lr"], again.optimizer["adamw_lr"]) == (128, 0.01, 3e-3)
    with pytest.raises(UserError, match=r"was started with model\.hidden_size=128 and this run has 256"):
        chosen(*resumed, "model.hidden_size=256")


def test_a_choice_that_is_gone_is_not_made_again(steady: None, tmp_path: Path) -> None:
    """Checkpoints outlive the run folder, and another size would not fit them, another batch would not show."""
    saves = tmp_path / "saves" / "auto-cramming"
    saves.mkdir(parents=True)
    (saves / "latest-rank0.pt").touch()
    kept = (f"run_folder={tmp_path / 'run'}", f"save_folder={tmp_path}/saves/{{run_name}}", "autoresume=true")
    with pytest.raises(UserError, match="holds an earlier start, and what it chose for auto stood in"):
        chosen("budget=1min", *kept)


def test_a_config_of_another_tool_is_not_read(steady: None, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("lr: 3\n")
    with pytest.raises(UserError, match="was not written by a run"):
        chosen("budget=1min", f"run_folder={tmp_path}", "autoresume=true")


@pytest.mark.slow
def test_a_run_trains_what_it_chose_and_continues(small_set: Path, tmp_path: Path) -> None:
    command = [
        "composer", REPOSITORY / "train.py", AUTO, f"data.local={small_set / 'shards'}", "data.num_workers=0",
        "run_name=auto", "save_interval=1ba", "global_train_batch_size=4", "report=false",
    ]  # fmt: skip
    first = run_in(tmp_path, *command, "budget=60s")
    assert first.returncode == 0, first.stderr
    assert "auto: " in first.stderr
    folder = tmp_path / "runs" / "auto"
    before = yaml.safe_load((folder / "config.yaml").read_text())
    assert isinstance(before["model"]["hidden_size"], int)
    sources = json.loads((folder / "config_sources.json").read_text())
    assert sources["model.hidden_size"] == sources["optimizer.lr"] == "auto"
    again = run_in(tmp_path, *command, "budget=100s", "autoresume=true")
    assert again.returncode == 0, again.stderr
    assert "auto: " not in again.stderr
    after = yaml.safe_load((folder / "config.yaml").read_text())
    assert {**before, "autoresume": True, "budget": "100s"} == after


def test_a_config_without_auto_is_left_alone() -> None:
    config = load_config(REPOSITORY / "yamls" / "esm2_small.yaml")
    assert not wants_choice(config)
    assert provisional(config) is config

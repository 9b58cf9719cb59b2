"""Training as a user runs it: the folder that a run leaves, more processes, a kill and a resume, wrong input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoTokenizer, EsmForMaskedLM

from plm_composer.inference.load import load_trained
from tests.commands import run_here, run_in


def read_metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> dict[int, float]:
    return {line["batch"]: line["loss/train/total"] for line in read_metrics(folder) if "loss/train/total" in line}


def test_a_run_leaves_its_folder(finished_run) -> None:
    folder = finished_run.folder
    assert sorted(losses(folder)) == [1, 2, 3, 4, 5, 6]
    evaluations = {line["batch"] for line in read_metrics(folder) if "metrics/eval/masked_nll" in line}
    assert evaluations == {3, 6}
    last = read_metrics(folder)[-1]
    assert (last["proteins"], last["epoch"]) == (96, 0)
    assert 0 < last["tokens"] <= 96 * 64
    assert (folder / "checkpoints" / "latest-rank0.pt").exists()
    assert yaml.safe_load((folder / "config.yaml").read_text())["global_train_batch_size"] == 16
    assert (
        "loss/train/total" in EventAccumulator(str(next((folder / "tensorboard").iterdir()))).Reload().Tags()["scalars"]
    )


def test_a_run_says_where_things_are_and_what_comes_next(finished_run) -> None:
    assert "validation loss" in finished_run.output
    assert "runs/esm2_small/checkpoints/latest-rank0.pt" in finished_run.output
    assert "plm evaluate runs/esm2_small/export" in finished_run.output


def test_the_export_loads_in_transformers(finished_run) -> None:
    model, info = EsmForMaskedLM.from_pretrained(finished_run.folder / "export", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(finished_run.folder / "export")
    logits = model(**tokenizer("MKV<mask>LLA", return_tensors="pt")).logits
    assert logits.shape == (1, 9, 33)
    assert "validation set" in (finished_run.folder / "export" / "README.md").read_text()


def test_a_second_start_neither_overwrites_nor_guesses(finished_run, repository, tiny) -> None:
    command = ["train.py", repository / "yamls" / "esm2_small.yaml", *tiny]
    result = run_here(finished_run.scratch, *command)
    assert result.returncode == 2
    assert "runs/esm2_small holds an earlier run; continue it with autoresume=true" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    result = run_here(finished_run.scratch, *command, "autoresume=true", "optimizer.lr=0.5")
    assert result.returncode == 2
    assert "was started with optimizer=" in result.stderr


def test_a_finished_run_resumes_to_its_end_at_once(finished_run, repository, tiny) -> None:
    before = losses(finished_run.folder)
    result = run_here(
        finished_run.scratch, "train.py", repository / "yamls" / "esm2_small.yaml", *tiny,
        "autoresume=true", "save_num_checkpoints_to_keep=-1", "loggers.tensorboard={}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "validation loss" in result.stdout
    assert losses(finished_run.folder) == before


def records(folder: Path) -> dict[str, bytes]:
    paths = [folder / name for name in ("config.yaml", "metrics.jsonl", "export/README.md", "export/config.json")]
    return {path.name: path.read_bytes() for path in paths}


def test_a_duration_that_has_passed_is_refused_and_the_records_stay(finished_run, repository, tiny) -> None:
    before = records(finished_run.folder)
    command = ["train.py", repository / "yamls" / "esm2_small.yaml", *tiny]
    result = run_here(finished_run.scratch, *command, "autoresume=true", "max_duration=4ba")
    assert result.returncode == 2
    assert "has trained 6ba, and max_duration is 4ba; give a longer one" in result.stderr
    assert records(finished_run.folder) == before
    start = f"load_path={finished_run.folder}/checkpoints/latest-rank0.pt"
    result = run_here(finished_run.scratch, *command, "run_name=other", start)
    assert result.returncode == 2
    assert "has trained 6ba, and max_duration is 6ba; give a longer one" in result.stderr


def test_an_export_that_was_changed_stops_a_replacement_before_it_removes_anything(
    finished_run, repository, tiny, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "esm2_small"
    shutil.copytree(finished_run.folder, folder, symlinks=True)
    card = folder / "export" / "README.md"
    card.write_text("my own words")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    result = run_here(tmp_path, "train.py", repository / "yamls" / "esm2_small.yaml", *tiny, "save_overwrite=true")
    assert result.returncode == 2
    assert "README.md would be replaced" in result.stderr
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
    assert card.read_text() == "my own words"


def trained_weights(folder: Path) -> dict[str, torch.Tensor]:
    return EsmForMaskedLM.from_pretrained(folder / "export").state_dict()


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("microbatches", ["device_train_microbatch_size=3"]),
        ("padded", ["recipe=baseline", "run_name=padded"]),
        ("workers", ["data.num_workers=2"]),
    ],
)  # fmt: skip
def test_other_ways_of_running_train_the_same_model(
    finished_run, repository, tiny, name: str, overrides: list[str]
) -> None:
    arguments = [f"run_name={name}", *tiny, *overrides]
    result = run_here(
        finished_run.scratch, "train.py", repository / "yamls" / "esm2_small.yaml", *arguments,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    folder = finished_run.scratch / "runs" / name
    # The same proteins with the same masks, weighted by masked token: the same losses, up to the order of sums.
    assert losses(folder) == pytest.approx(losses(finished_run.folder), abs=2e-5)
    expected = trained_weights(finished_run.folder)
    for key, value in trained_weights(folder).items():
        torch.testing.assert_close(value, expected[key], atol=2e-4, rtol=0)
    checkpoint = load_trained(folder).model.state_dict()
    exported = load_trained(folder / "export").model.state_dict()
    assert all(torch.equal(value, exported[key]) for key, value in checkpoint.items())
    if "recipe=baseline" not in overrides:
        assert {line["batch"]: line["tokens"] for line in read_metrics(folder)} == {
            line["batch"]: line["tokens"] for line in read_metrics(finished_run.folder)
        }


def test_a_killed_run_resumes_exactly(finished_run, repository, tiny) -> None:
    arguments = [str(repository / "yamls" / "esm2_small.yaml"), "run_name=killed", *tiny, "autoresume=true"]
    folder = finished_run.scratch / "runs" / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(repository / "train.py"), *arguments],
        cwd=finished_run.scratch, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '"batch": 3' in metrics.read_text()):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 6 not in losses(folder)
    result = run_in(finished_run.scratch, "python", repository / "train.py", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert losses(folder) == losses(finished_run.folder)
    expected = trained_weights(finished_run.folder)
    assert all(torch.equal(value, expected[key]) for key, value in trained_weights(folder).items())


def test_training_continues_from_a_hugging_face_folder(finished_run, repository, tiny) -> None:
    overrides = [override for override in tiny if not override.startswith("model.")]
    result = run_here(
        finished_run.scratch, "train.py", repository / "yamls" / "esm2_small.yaml", *overrides,
        f"model.pretrained={finished_run.folder / 'export'}", "run_name=continued", "seed=3",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    folder = finished_run.scratch / "runs" / "continued"
    assert losses(folder)[1] < losses(finished_run.folder)[1]
    EsmForMaskedLM.from_pretrained(folder / "export")


def test_bf16_on_a_cpu_trains_close_to_fp32(finished_run, repository, tiny) -> None:
    result = run_here(
        finished_run.scratch, "train.py", repository / "yamls" / "esm2_small.yaml", *tiny,
        "recipe=bf16", "precision=amp_bf16",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    half, full = losses(finished_run.scratch / "runs" / "esm2_small-bf16"), losses(finished_run.folder)
    assert half == pytest.approx(full, abs=0.02)
    assert half != full


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "which run?"),
        (("none.yaml",), "none.yaml: there is no such file"),
        (("{yaml}", "data.local=nowhere"), "there is no dataset: nowhere/train/index.json is missing"),
        (("{yaml}", "data.fasta=nowhere.fasta"), "nowhere.fasta"),
        (("{yaml}", "global_train_batch_size=100000"), "no full batch of 100000"),
        (("{yaml}", "load_path=nowhere.pt", "run_name=x"), "load_path: cannot load nowhere.pt"),
        (("{yaml}", "attention_backend=reference", "compile_config.fullgraph=true", "run_name=z"),
         "torch cannot compile here; set compile_config=null ("),
        (("{yaml}", "model.pretrained=nowhere"), "model.pretrained brings its own config"),
        (("{yaml}", "optimizer.lr=1e30", "algorithms.gradient_clipping=null", "max_duration=30ba", "run_name=y"),
         "the loss is no longer finite at batch"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_exit_code_2(
    finished_run, repository, tiny, arguments: tuple[str, ...], message: str
) -> None:
    filled = [argument.format(yaml=repository / "yamls" / "esm2_small.yaml") for argument in arguments]
    overrides = [*tiny, "run_name=wrong", *filled[1:]] if len(filled) > 1 else []
    result = run_here(finished_run.scratch, "train.py", *filled[:1], *overrides)
    assert result.returncode == 2, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in result.stderr

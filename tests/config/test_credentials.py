"""Secrets stay out of what a run leaves."""

from pathlib import Path

import pytest
import torch

from plm_composer.config.merge import parse_config, to_yaml
from plm_composer.errors import UserError
from plm_composer.files.weights_only import plain_values_only
from plm_composer.inference.load import load_trained
from plm_composer.run.load import load_config
from tests.commands import REPOSITORY, TEST_TOKEN

YAML = REPOSITORY / "yamls" / "esm2_small.yaml"
SECRET = "s3cr3t-s3cr3t"


@pytest.mark.parametrize(
    ("variable", "override", "message"),
    [
        ("WANDB_API_KEY", "run_name=${oc.env:WANDB_API_KEY}", "run_name takes the secret of the environment variable"),
        ("WANDB_API_KEY", "loggers.wandb.x=${oc.env:'WANDB_API_KEY'}", "loggers.wandb.x takes the secret of"),
        ("S_TOKEN", "data.remote=s3://b/${oc.env:S_${oc.decode:TOKEN}}", "data.remote holds the value of"),
        ("S_TOKEN", f"run_name=a-{SECRET}", "run_name holds the value of the environment variable S_TOKEN"),
        ("S_TOKEN", f"data.streams.{SECRET}.local=x", "data.streams holds the value of"),
        ("DB_PASSWORD", f"loggers.wandb.tags=[{SECRET}]", "loggers.wandb.tags[0] holds the value of"),
        ("NAME", "data.remote=https://user:12@host/x", "data.remote holds a URL with a password"),
        ("NAME", "loggers.neptune.api_token=abc", "loggers.neptune.api_token is a secret by its name"),
    ],
)
def test_secrets_are_refused(monkeypatch, variable: str, override: str, message: str) -> None:
    monkeypatch.setenv(variable, SECRET)
    with pytest.raises(UserError) as refused:
        load_config(YAML, [override])
    assert message in str(refused.value)
    assert SECRET not in str(refused.value)


def test_what_is_no_secret_stays(monkeypatch) -> None:
    monkeypatch.setenv("BUCKET", "s3://proteins/uniref50")
    monkeypatch.setenv("SHORT_KEY", "s")
    monkeypatch.setenv("PWD", str(Path.cwd()))
    config = load_config(YAML, ["data.remote=${oc.env:BUCKET}", f"data.local={Path.cwd()}/data"])
    assert "remote: s3://proteins/uniref50" in to_yaml(config)


def test_a_run_leaves_no_secret_behind(finished_run) -> None:
    files = [path for path in finished_run.folder.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert [path for path in files if TEST_TOKEN.encode() in path.read_bytes()] == []


def test_a_checkpoint_cannot_ask_for_the_environment(finished_run, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME_PAGE", SECRET)
    with plain_values_only("checkpoint"):
        content = torch.load(finished_run.folder / "checkpoints" / "latest-rank0.pt", weights_only=True)
    callbacks = content["state"]["callbacks"]
    record = next(state for name, state in callbacks.items() if name.endswith("RunRecord"))
    record["config"] += "\nrun_folder: ${oc.env:HOME_PAGE}\n"
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"run_folder is .* no references"):
        load_trained(tmp_path / "model.pt")


def test_a_resolved_config_is_read_again() -> None:
    config = load_config(YAML)
    assert parse_config({"run_name": config.run_name, "run_folder": config.run_folder}, "x").run_name == "esm2_small"

"""Several processes over gloo, as `composer` starts them: DDP and FSDP2, and checkpoints from one to the other.

Each run starts where another stopped, so that few runs show all ways: starting Composer takes most of their time.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from plm_composer.inference.load import load_trained
from tests.commands import TINY

SHARDED = ("recipe=fsdp", "fsdp_config.state_dict_type=sharded")
FULL = ("recipe=fsdp", "fsdp_config.state_dict_type=full")
ACCUMULATING = ("device_train_microbatch_tokens=150", "activation_checkpointing=true")
Launch = Callable[..., Path]


def losses(folder: Path) -> dict[int, float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["batch"]: line["loss/train/total"] for line in lines if "loss/train/total" in line}


@pytest.fixture(scope="module")
def launch(finished_run, repository) -> Launch:
    """Runs train.py in so many processes; returns the run folder."""

    def run(name: str, *overrides: str, processes: int = 1, base: Sequence[str] = TINY) -> Path:
        launcher = [sys.executable] if processes == 1 else ["composer", "-n", str(processes)]
        result = subprocess.run(
            [*launcher, str(repository / "train.py"), str(repository / "yamls" / "esm2_small.yaml"), *base,
             f"run_name={name}", "save_num_checkpoints_to_keep=-1", *overrides],
            cwd=finished_run.scratch,
            env={
                **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout
        return finished_run.scratch / "runs" / name

    return run


@pytest.fixture(scope="module")
def ddp(launch) -> Path:
    return launch("ddp", *ACCUMULATING, processes=2)


@pytest.fixture(scope="module")
def sharded(launch) -> Path:
    return launch("sharded", *SHARDED, *ACCUMULATING, processes=2)


@pytest.fixture(scope="module")
def full_from_one_process(launch, finished_run) -> Path:
    start = finished_run.folder / "checkpoints" / "ep0-ba2-rank0.pt"
    return launch("full", *FULL, *ACCUMULATING, f"load_path={start}", processes=2)


@pytest.fixture(scope="module")
def sharded_on_one_process(launch, sharded) -> Path:
    return launch("sharded1", *SHARDED, f"load_path={sharded / 'checkpoints' / 'ep0-ba2'}")


@pytest.fixture(scope="module")
def sharded_on_two_again(launch, sharded_on_one_process) -> Path:
    start = sharded_on_one_process / "checkpoints" / "ep0-ba4"
    return launch("sharded2", *SHARDED, *ACCUMULATING, f"load_path={start}", processes=2)


@pytest.fixture(scope="module")
def hsdp(launch) -> Path:
    """Two copies of the weights, each over two processes."""
    return launch("hsdp", *SHARDED, "fsdp_config.data_parallel_replicate_degree=2", ACCUMULATING[0], processes=4)


@pytest.fixture(scope="module")
def one_process_resumes_two(launch, full_from_one_process) -> Path:
    """One process, without FSDP, resumes by ``autoresume`` what two with FSDP2 had begun."""
    folder = full_from_one_process.with_name("resumed")
    shutil.copytree(full_from_one_process, folder, symlinks=True)
    shutil.rmtree(folder / "export")
    (folder / "checkpoints" / "ep0-ba6-rank0.pt").unlink()
    latest = folder / "checkpoints" / "latest-rank0.pt"
    latest.unlink()
    latest.symlink_to("ep0-ba4-rank0.pt")
    return launch("resumed", "autoresume=true")


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("ddp", 1),
        ("sharded", 1),
        ("full_from_one_process", 3),
        pytest.param("sharded_on_one_process", 3, marks=pytest.mark.slow),
        pytest.param("sharded_on_two_again", 5, marks=pytest.mark.slow),
        ("one_process_resumes_two", 3),
        pytest.param("hsdp", 1, marks=pytest.mark.slow),
    ],
)
def test_processes_and_checkpoints_do_not_change_the_model(request, finished_run, name: str, first: int) -> None:
    folder = request.getfixturevalue(name)
    # The same proteins with the same masks, weighted by masked token: the same losses, up to the order of sums.
    expected = {batch: loss for batch, loss in losses(finished_run.folder).items() if batch >= first}
    assert losses(folder) == pytest.approx(expected, abs=2e-5)
    trained, exported = load_trained(folder).model.state_dict(), load_trained(folder / "export").model.state_dict()
    assert all(torch.equal(value, exported[key]) for key, value in trained.items())
    for key, value in load_trained(finished_run.folder).model.state_dict().items():
        torch.testing.assert_close(exported[key], value, atol=2e-4, rtol=0)


def test_checkpoints_are_of_the_kind_that_was_asked_for(sharded, full_from_one_process) -> None:
    assert {path.name for path in (sharded / "checkpoints" / "ep0-ba6").iterdir()} == {
        ".metadata", "__0_0.distcp", "__1_0.distcp",
    }  # fmt: skip
    assert (full_from_one_process / "checkpoints" / "ep0-ba6-rank0.pt").is_file()


@pytest.mark.slow
def test_one_copy_of_several_writes_the_checkpoint(hsdp) -> None:
    assert {path.name for path in (hsdp / "checkpoints" / "ep0-ba6").iterdir()} == {
        ".metadata", "__0_0.distcp", "__1_0.distcp",
    }  # fmt: skip


def test_tokens_are_counted_over_all_processes(ddp, finished_run) -> None:
    def tokens(folder: Path) -> dict[int, int]:
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return {line["batch"]: line["tokens"] for line in lines}

    assert tokens(ddp) == tokens(finished_run.folder)


@pytest.mark.slow
def test_a_pretrained_model_is_sharded_with_its_weights(launch, finished_run) -> None:
    base = [override for override in TINY if not override.startswith("model.")]
    model = f"model={{pretrained: {finished_run.folder / 'export'}}}"
    one = launch("pretrained", model, base=base)
    two = launch("pretrained-sharded", *SHARDED, model, base=base, processes=2)
    assert losses(one)[1] < losses(finished_run.folder)[1]
    assert losses(two) == pytest.approx(losses(one), abs=2e-5)

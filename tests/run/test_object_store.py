"""The whole path over an object store: convert to it, train from it, save to it, resume and evaluate from it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plm_composer.sample import TRAIN_FASTA, VAL_FASTA
from tests.commands import run_here, run_in
from tests.object_store import ObjectStore, serve

WRONG_SECRET = "not-what-the-store-knows"

Start = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def start(object_store: ObjectStore, scratch: Path, repository: Path) -> Start:
    """Runs a command of the project with the store's credentials."""

    def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        runs = run_here if command[0] in ("plm", "train.py") else run_in
        return runs(scratch, *command, variables={**object_store.environment, **variables})

    return run


@pytest.fixture(scope="module")
def dataset(object_store: ObjectStore, start: Start, repository: Path) -> str:
    """The bundled sample, converted straight to the store."""
    url = f"{object_store.make_bucket('datasets')}/sample"
    result = start(
        "python", repository / "convert" / "fasta.py", TRAIN_FASTA, "--val", VAL_FASTA, "--out", url,
        "--shard-size", "0.05",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return url


@pytest.fixture(scope="module")
def trained(object_store: ObjectStore, start: Start, dataset: str, repository: Path, tiny: tuple[str, ...]) -> str:
    """Six batches from the store, with checkpoints to it; gives their URL."""
    checkpoints = f"{object_store.make_bucket('checkpoints')}/run"
    result = start("composer", *_train(repository, tiny, dataset, checkpoints))
    assert result.returncode == 0, result.stdout + result.stderr
    return checkpoints


def _train(repository: Path, tiny: tuple[str, ...], dataset: str, checkpoints: str, *more: str) -> list[str | Path]:
    return [
        repository / "train.py", repository / "yamls" / "esm2_small.yaml", *tiny, f"data.remote={dataset}",
        "data.local=cache", "data.cache_limit=300kb", f"save_folder={checkpoints}", "run_name=remote",
        "save_num_checkpoints_to_keep=-1", *more,
    ]  # fmt: skip


def test_a_conversion_to_a_store_is_complete(object_store: ObjectStore, dataset: str) -> None:
    names = object_store.names(dataset)
    assert {"manifest.json", "train/index.json", "val/index.json"} <= set(names)
    index = json.loads(object_store.read(f"{dataset}/train/index.json"))
    assert {f"train/{shard['zip_data']['basename']}" for shard in index["shards"]} <= set(names)
    assert len(index["shards"]) > 3


def test_training_streams_through_a_bounded_cache_and_saves_to_the_store(
    object_store: ObjectStore, scratch: Path, dataset: str, trained: str
) -> None:
    lines = [json.loads(line) for line in (scratch / "runs" / "remote" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["batch"] == 6
    assert any("latest-rank0.pt" in name for name in object_store.names(trained))
    cached = sum(path.stat().st_size for path in (scratch / "cache").rglob("*.mds*") if "train" in path.parts)
    index = json.loads(object_store.read(f"{dataset}/train/index.json"))
    sizes = [shard["raw_data"]["bytes"] for shard in index["shards"]]
    # Two of streaming's threads may each fetch a shard for the same free space.
    assert 0 < cached <= 300 * 1024 + max(sizes) < sum(sizes)


@pytest.mark.slow
def test_a_run_resumes_from_the_store_in_an_empty_folder(
    object_store: ObjectStore, scratch: Path, start: Start, dataset: str, trained: str, repository: Path, tiny
) -> None:
    """What a preempted machine's successor does: nothing is there but the store."""
    (scratch / "runs").rename(scratch / "old_runs")
    result = start(
        "composer", *_train(repository, tiny, dataset, trained, "autoresume=true", "max_duration=8ba")
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [json.loads(line) for line in (scratch / "runs" / "remote" / "metrics.jsonl").read_text().splitlines()]
    assert [line["batch"] for line in lines if "loss/train/total" in line] == [7, 8]


def _resume(start: Start, repository: Path, tiny, dataset: str, folder: str, batches: int, run: str) -> str:
    """Continues a run in this folder; gives stderr."""
    overrides = [f"run_name={run}", "autoresume=true", f"max_duration={batches}ba"]
    result = start("composer", *_train(repository, tiny, dataset, folder, *overrides))
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stderr


def _batches(scratch: Path, run: str) -> list[int]:
    lines = [json.loads(line) for line in (scratch / "runs" / run / "metrics.jsonl").read_text().splitlines()]
    return [line["batch"] for line in lines if "loss/train/total" in line]


@pytest.mark.slow
def test_a_run_on_the_same_machine_resumes_from_the_store_and_from_the_newest_whole_checkpoint(
    object_store: ObjectStore, scratch: Path, start: Start, dataset: str, repository: Path, tiny
) -> None:
    folder = f"{object_store.make_bucket('checkpoints')}/again"
    _resume(start, repository, tiny, dataset, folder, 2, "again")

    assert "continuing from" not in _resume(start, repository, tiny, dataset, folder, 4, "again")
    # What the last start downloaded, of batch 2, is not taken for the latest.

    assert "continuing from" not in _resume(start, repository, tiny, dataset, folder, 6, "again")
    assert _batches(scratch, "again") == [1, 2, 3, 4, 5, 6]

    newest = f"{folder}/ep0-ba6-rank0.pt"
    object_store.write(newest, object_store.read(newest)[:-100])
    stderr = _resume(start, repository, tiny, dataset, folder, 8, "again")
    assert f"autoresume: {newest} is damaged or cut short; continuing from ep0-ba4-rank0.pt" in stderr
    object_store.remove(f"{folder}/latest-rank0.pt.symlink")
    stderr = _resume(start, repository, tiny, dataset, folder, 10, "again")
    assert f"autoresume: {folder}/latest-rank0.pt.symlink is missing; continuing from ep0-ba8-rank0.pt" in stderr
    assert _batches(scratch, "again")[-6:] == [5, 6, 7, 8, 9, 10]

    for name in object_store.names(folder):
        if name.startswith("ep"):
            object_store.write(f"{folder}/{name}", b"")
    result = start("composer", *_train(repository, tiny, dataset, folder, "run_name=again", "autoresume=true"))
    assert result.returncode == 2, result.stdout + result.stderr
    assert "is empty; no whole checkpoint is left: put one back" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_store_that_is_lost_while_checkpoints_are_saved_is_one_line(
    tmp_path: Path, small_set: Path, repository: Path, tiny
) -> None:
    (tmp_path / "store").mkdir()
    with serve(tmp_path / "store") as store:
        folder = f"{store.make_bucket('checkpoints')}/lost"
        command = [
            "python", repository / "train.py", repository / "yamls" / "esm2_small.yaml", *tiny, "save_interval=20ba",
            f"data.local={small_set / 'shards'}", f"save_folder={folder}", "max_duration=4000ba", "eval_interval=0",
        ]  # fmt: skip
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(run_in, tmp_path, *command, variables={**store.environment, "AWS_MAX_ATTEMPTS": "1"})
            while not running.done() and not any(name.startswith("ep") for name in store.names(folder)):
                time.sleep(0.2)
            store.process.kill()
            result = running.result()
    assert result.returncode == 2, result.stdout + result.stderr
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: {folder}: a checkpoint could not be uploaded (")
    assert error.endswith("check the store and the network, and continue with autoresume=true")
    assert "Traceback" not in result.stderr


def test_a_model_is_loaded_from_a_checkpoint_in_the_store(
    object_store: ObjectStore, scratch: Path, start: Start, trained: str
) -> None:
    first = scratch / ("old_runs" if (scratch / "old_runs").exists() else "runs")  # moved by a test above
    export = first / "remote" / "export"
    for path in export.iterdir():
        object_store.write(f"{trained}-export/{path.name}", path.read_bytes())

    def loss_of(model: str | Path) -> float:
        result = start("plm", "evaluate", model, "--data", VAL_FASTA, "--limit", "20", "--json")
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["model"] == str(model)
        return float(json.loads(result.stdout)["loss"])

    expected = pytest.approx(loss_of(export), abs=1e-6)
    assert loss_of(f"{trained}/ep0-ba6-rank0.pt") == expected
    assert loss_of(f"{trained}-export") == expected
    object_store.write(f"{trained}-copy/ep0-ba2-rank0.pt", object_store.read(f"{trained}/ep0-ba2-rank0.pt"))
    object_store.write(f"{trained}-copy/ep0-ba6-rank0.pt", object_store.read(f"{trained}/ep0-ba6-rank0.pt"))
    assert loss_of(f"{trained}-copy") == expected

    object_store.write(f"{trained}-copy/ep0-ba6-rank0.pt", b"half")
    result = start("plm", "evaluate", f"{trained}-copy", "--data", VAL_FASTA)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == f"error: {trained}-copy: not a PyTorch file, or a damaged one"
    result = start("plm", "evaluate", f"{trained}-nothing", "--data", VAL_FASTA)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        f"error: {trained}-nothing: there is no checkpoint, run or Hugging Face folder"
    )


def test_a_model_is_evaluated_on_a_set_in_the_store(scratch: Path, start: Start, dataset: str, trained: str) -> None:
    folder = next(scratch.glob("*runs/remote/export"))
    remote = start("plm", "evaluate", folder, "--data", dataset, "--limit", "20", "--json")
    assert remote.returncode == 0, remote.stderr
    local = start("plm", "evaluate", folder, "--data", VAL_FASTA, "--limit", "20", "--json")
    assert json.loads(remote.stdout)["loss"] == pytest.approx(json.loads(local.stdout)["loss"], abs=1e-6)


@pytest.mark.faults
def test_a_sharded_run_falls_back_in_the_store(
    object_store: ObjectStore, scratch: Path, start: Start, dataset: str, repository: Path, tiny
) -> None:
    folder = f"{object_store.make_bucket('checkpoints')}/sharded"

    def run(batches: int) -> str:
        overrides = (
            "recipe=fsdp",
            "fsdp_config.state_dict_type=sharded",
            f"max_duration={batches}ba",
            "eval_interval=0",
        )
        command = _train(repository, tiny, dataset, folder, *overrides, "run_name=sharded", "autoresume=true")
        result = start("composer", "-n", "2", *command)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    run(4)
    shard = f"{folder}/ep0-ba4/__1_0.distcp"
    object_store.write(shard, object_store.read(shard)[:-1])
    assert (
        f"autoresume: {folder}/ep0-ba4 is not whole: __1_0.distcp is missing or cut short; continuing from ep0-ba2"
    ) in run(6)
    assert _batches(scratch, "sharded") == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("variables", "bucket", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": WRONG_SECRET}, "datasets", "s3://datasets/sample"),
        pytest.param({}, "nosuchbucket", "s3://nosuchbucket/sample", marks=pytest.mark.slow),
        pytest.param({"S3_ENDPOINT_URL": "http://127.0.0.1:9"}, "datasets", "127.0.0.1:9", marks=pytest.mark.slow),
    ],
    ids=["secret", "bucket", "endpoint"],
)
def test_what_cannot_be_reached_is_one_line(
    start: Start,
    dataset: str,
    small_set: Path,
    repository: Path,
    tiny,
    variables: dict[str, str],
    bucket: str,
    message: str,
) -> None:
    local = ["train.py", repository / "yamls" / "esm2_small.yaml", *tiny, "run_name=unreachable",
             f"data.local={small_set / 'shards'}"]  # fmt: skip
    commands = [
        [*local, f"save_folder=s3://{bucket}/other"],
        [*local, f"load_path=s3://{bucket}/other.pt"],
        ["plm", "evaluate", f"s3://{bucket}/other", "--data", VAL_FASTA],
        ["train.py", *_train(repository, tiny, f"s3://{bucket}/sample", "none", "run_name=unreachable")[1:]],
        ["plm", "convert", "fasta", VAL_FASTA, "--out", f"s3://{bucket}/other"],
    ]
    for command in commands:
        result = start(*command, AWS_MAX_ATTEMPTS="1", **variables)
        assert result.returncode == 2, result.stdout + result.stderr
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert message.replace("sample", "") in errors[0]
        assert "Traceback" not in result.stderr
        assert WRONG_SECRET not in result.stdout + result.stderr

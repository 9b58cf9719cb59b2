"""What a run leaves, and what it says when it cannot."""

import collections
import json
import shutil
from pathlib import Path

import pytest

from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError
from plm_composer.evaluation.results import Result, Score, write_result
from plm_composer.run_folder import RunFolder, prepare_run_folder

METRICS = '{"batch": 1, "epoch": 0, "proteins": 8, "tokens": 90, "seconds": 0.1}\n'
Usage = collections.namedtuple("Usage", "total used free")


def _fail() -> None:
    raise RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 1712832 vs 1712784")


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 100, 0))
    with pytest.raises(UserError, match="the disk is full"), RunFolder(tmp_path).explain_full_disk():
        _fail()


@pytest.mark.parametrize("folder", [".", "not there"])
def test_an_error_of_another_cause_is_left_alone(tmp_path: Path, folder: str) -> None:
    with pytest.raises(RuntimeError, match="unexpected pos"), RunFolder(tmp_path / folder).explain_full_disk():
        _fail()


def config(folder: Path, **changes: object) -> TrainConfig:
    return TrainConfig(run_folder=str(folder), run_name="x", **changes)  # type: ignore[arg-type]


def test_only_what_a_run_left_is_replaced(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config(config(tmp_path))
    folder.metrics.write_text(METRICS)
    for part in (folder.checkpoints / "ep0-ba2", folder.checkpoints / "ep0-ba4", folder.export):
        part.mkdir(parents=True)
    ours = [
        folder.checkpoints / "ep0-ba2" / ".metadata", folder.checkpoints / "ep0-ba2" / "__0_0.distcp",
        folder.checkpoints / "ep0-ba3-rank0.pt", folder.checkpoints / "partial-ep0-ba4-rank0.pt",
    ]  # fmt: skip
    theirs = [
        folder.export / "slides.key", folder.checkpoints / "notes.txt", folder.checkpoints / "partial-notes.txt",
        folder.checkpoints / "ep0-ba4" / "notes.txt", tmp_path / "thesis.tex",
    ]  # fmt: skip
    for path in [*ours, *theirs]:
        path.write_text("x")
    folder.latest.symlink_to("ep0-ba3-rank0.pt")
    with pytest.raises(UserError, match="holds an earlier run"):
        prepare_run_folder(config(tmp_path))
    assert all(path.exists() for path in [*ours, *theirs])
    prepare_run_folder(config(tmp_path, save_overwrite=True))
    assert not any(path.exists() for path in [*ours, folder.metrics])
    assert not folder.latest.is_symlink()
    assert all(path.exists() for path in theirs)


def test_a_file_by_the_name_of_a_partial_one_stays(tmp_path: Path) -> None:
    (tmp_path / "partial-config.yaml").write_text("precious")
    prepare_run_folder(config(tmp_path))
    assert (tmp_path / "partial-config.yaml").read_text() == "precious"


def test_metrics_alone_are_a_run(tmp_path: Path) -> None:
    RunFolder(tmp_path).metrics.write_text(METRICS)
    with pytest.raises(UserError, match="holds an earlier run"):
        prepare_run_folder(config(tmp_path))


@pytest.mark.parametrize(("name", "text"), [("config.yaml", "mine: 1\n"), ("metrics.jsonl", '{"loss": 1}\n')])
@pytest.mark.parametrize("changes", [{}, {"save_overwrite": True}, {"autoresume": True}], ids=str)
def test_files_of_others_are_left_alone(name: str, text: str, changes: dict[str, bool], tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"{name} was not written by a run"):
        prepare_run_folder(config(tmp_path, **changes))
    assert (tmp_path / name).read_text() == text


def test_what_set_the_config_is_kept_with_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config(config(tmp_path), {"seed": "recipe x"})
    assert json.loads(folder.sources.read_text()) == {"seed": "recipe x"}
    folder.write_config(config(tmp_path))
    assert not folder.sources.exists()


def test_a_run_that_is_replaced_leaves_no_scores(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config(config(tmp_path))
    folder.metrics.write_text(METRICS)
    path = write_result(tmp_path, Result("variants", "x", {"spearman": Score(0.5)}))
    folder.report.write_text("old")
    prepare_run_folder(config(tmp_path, save_overwrite=True))
    assert not path.exists()
    assert not folder.report.exists()

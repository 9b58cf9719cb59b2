"""What others wrote into a folder is never replaced, and a kill leaves what the next call completes."""

import os
import signal
from pathlib import Path

import pytest

from plm_composer.errors import UserError
from plm_composer.files import owned
from plm_composer.files.owned import LIST, in_the_way, remove_files, replacing_files

ADVICE = "move it away"


def write(folder: Path, **contents: str) -> None:
    with replacing_files(folder, "key", ADVICE) as staging:
        for name, content in contents.items():
            (staging / name).write_text(content)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file() and path.name != LIST}


def test_what_we_wrote_is_replaced_and_what_we_no_longer_write_goes(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "a", key="1", weights="old", extra="x")
    write(tmp_path / "deep" / "a", key="2", weights="new")
    assert contents(tmp_path / "deep" / "a") == {"key": "2", "weights": "new"}


@pytest.mark.parametrize("name", ["key", "weights"])
def test_what_others_wrote_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(UserError, match=f"{name} would be replaced, but was not written by us"):
        write(tmp_path, key="1", weights="new")
    assert contents(tmp_path) == {name: "precious"}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_was_changed_since_is_refused(tmp_path: Path) -> None:
    write(tmp_path, key="1", weights="old")
    (tmp_path / "weights").write_text("fine-tuned")
    with pytest.raises(UserError, match="weights would be replaced, but was not written by us, or was changed since"):
        write(tmp_path, key="2", weights="new")
    assert contents(tmp_path) == {"key": "1", "weights": "fine-tuned"}
    remove_files(tmp_path)
    assert contents(tmp_path) == {"weights": "fine-tuned"}


def test_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("precious")
    (tmp_path / ".git").mkdir()
    write(tmp_path, key="1")
    write(tmp_path, key="2")
    assert contents(tmp_path) == {"key": "2", "notes": "precious"}
    remove_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "notes"]


def test_a_list_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / LIST).write_text("mine")
    with pytest.raises(UserError, match=LIST):
        write(tmp_path, key="1")
    assert (tmp_path / LIST).read_text() == "mine"


def test_a_link_is_followed_and_a_link_inside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", key="1")
    assert contents(tmp_path / "real") == {"key": "1"}
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "precious").write_text("1")
    (tmp_path / "real" / "key").unlink()
    (tmp_path / "real" / "key").symlink_to("../precious")
    with pytest.raises(UserError, match="key would be replaced"):
        write(tmp_path / "link", key="2")


def test_an_error_leaves_everything_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(ValueError), replacing_files(tmp_path / "new", "key", ADVICE):
        raise ValueError
    assert not (tmp_path / "new").exists()
    write(tmp_path / "old", key="1")
    with pytest.raises(ValueError), replacing_files(tmp_path / "old", "key", ADVICE) as staging:
        (staging / "key").write_text("2")
        raise ValueError
    assert contents(tmp_path / "old") == {"key": "1"}


@pytest.mark.parametrize("moves", range(6))
def test_a_kill_at_any_move_leaves_no_mixture_and_the_next_call_completes_it(moves: int, tmp_path: Path) -> None:
    """Every file that takes its place is a move: the list twice, and the three files."""
    write(tmp_path, key="1", first="old", second="old")
    child = os.fork()
    if child == 0:
        count = 0

        def replace(self: Path, target: Path) -> None:
            nonlocal count
            if count == moves:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            self.rename(target)

        Path.replace = replace  # type: ignore[method-assign,assignment]
        try:
            write(tmp_path, key="2", first="new", second="new")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    left = contents(tmp_path)
    if "key" in left:
        assert left in ({"key": "1", "first": "old", "second": "old"}, {"key": "2", "first": "new", "second": "new"})
    assert not in_the_way(tmp_path, ["key", "first", "second"])
    write(tmp_path, key="3", first="newer", second="newer")
    assert contents(tmp_path) == {"key": "3", "first": "newer", "second": "newer"}
    assert not (tmp_path / owned._STAGING).exists()

"""Progress bars on terminals and in logs."""

import pytest

from plm_composer.terminal import progress
from plm_composer.terminal.progress import ProgressBar, say
from tests.terminal.streams import in_a_log, on_a_terminal


def test_a_terminal_sees_one_line_that_fits() -> None:
    with on_a_terminal() as terminal:
        for _ in ProgressBar(range(40), desc="evaluate", unit=" proteins", mininterval=0):
            pass
        drawn = terminal.drawn()
        assert len(drawn) > 20
        assert all(len(line) <= 80 for line in drawn)
        assert terminal.getvalue().count("\n") == 1
        assert drawn[-1].startswith("evaluate 100%|")
        assert "| 40/40 proteins  " in drawn[-1]
        assert "in 00:00" in drawn[-1]


def test_a_log_gets_nothing_of_what_is_done_soon() -> None:
    with in_a_log() as log:
        for _ in ProgressBar(range(1000), desc="evaluate", unit=" proteins"):
            pass
        assert log.getvalue() == ""


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    with in_a_log() as log:
        now = 0.0
        monkeypatch.setattr("tqdm.std.time", lambda: now)
        with ProgressBar(total=2000, desc="convert", unit="B", postfix=None) as bar:
            bar.set_postfix_str("5 proteins", refresh=False)
            for _ in range(100):
                now += 1
                bar.update(20)
        lines = log.getvalue().splitlines()
        assert len(lines) == 100 // progress.SECONDS_BETWEEN_LINES + 1
        assert lines[0] == "convert 30%: 600/2.00kB, 20B/s, 01:10 left, 5 proteins"
        assert lines[-1] == "convert 100%: 2.00k/2.00kB, 20B/s, in 01:40, 5 proteins"


def test_a_dumb_terminal_gets_lines() -> None:
    with on_a_terminal(kind="dumb") as terminal:
        for _ in ProgressBar(range(9), desc="evaluate"):
            pass
        assert terminal.getvalue() == ""


def test_nothing_is_shown_where_nobody_wants_it() -> None:
    with on_a_terminal() as terminal:
        with ProgressBar(total=3, desc="evaluate", disable=True) as bar:
            bar.update()
        assert terminal.getvalue() == ""


def test_messages_stand_above_the_bar() -> None:
    with on_a_terminal() as terminal:
        with ProgressBar(total=3, desc="evaluate") as bar:
            bar.update()
            say("warning: look here")
            bar.update()
        lines = terminal.getvalue().splitlines()
        assert any(line.endswith("warning: look here") for line in lines)
        assert lines[-1].startswith("evaluate") or "evaluate" in lines[-1]


def test_messages_in_a_log() -> None:
    with in_a_log() as log:
        with ProgressBar(total=3, desc="evaluate"):
            say("warning: look here")
        assert log.getvalue() == "warning: look here\n"


def test_a_bar_without_an_end() -> None:
    with on_a_terminal() as terminal:
        with ProgressBar(desc="verify", unit=" shards", mininterval=0) as bar:
            bar.update(3)
        assert terminal.drawn()[-1].startswith("verify  3 shards")

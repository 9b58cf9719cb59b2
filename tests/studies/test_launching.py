"""The process of a run: its output, its exit code, and that it ends with the study."""

import os
import signal
import threading
import time

import pytest

from plm_composer.studies.launching import ProcessLauncher, ending_on_signals, only_study
from plm_composer.studies.plan import plan_runs
from plm_composer.studies.schema import load_study
from tests.studies.fake_runs import write_study


@pytest.fixture
def planned(tmp_path):
    study = load_study(write_study(tmp_path))
    run = plan_runs(study, study.choose())[0]
    run.folder.mkdir(parents=True)
    return run


def test_output_and_exit_code_are_the_commands(planned) -> None:
    with only_study(planned.folder) as lock:
        assert ProcessLauncher(lock)(planned, []) == 2
    assert "error: which run?" in planned.log.read_text()


@pytest.mark.parametrize(("number", "exception"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_signals_end_the_run_too(planned, number: int, exception: type[BaseException]) -> None:
    # The run never ends by itself: it reads its YAML from a pipe without a writer.
    pipe = planned.folder / "pipe.yaml"
    os.mkfifo(pipe)
    file = planned.folder / ".lock"

    def signal_once_it_runs() -> None:
        while file.read_text() in ("", f"{os.getpid()}\n"):
            time.sleep(0.005)
        os.kill(os.getpid(), number)

    with only_study(planned.folder) as lock, ending_on_signals():
        thread = threading.Thread(target=signal_once_it_runs)
        thread.start()
        with pytest.raises(exception) as caught:
            ProcessLauncher(lock)(planned, [str(pipe)])
        thread.join()
    assert getattr(caught.value, "code", 143) == 143
    with only_study(planned.folder):  # A running run would still hold the lock.
        pass

"""Warnings as one line."""

import warnings

import pytest

from plm_composer.terminal.plain_warnings import describe_warning

OURS, THEIRS = describe_warning.__code__.co_filename, "/site-packages/torch/cuda/__init__.py"


def test_a_warning_is_one_line() -> None:
    text = "CUDA initialization: The NVIDIA driver\n  on your system is too old"
    assert describe_warning(UserWarning(text), UserWarning, THEIRS) == (
        "warning: CUDA initialization: The NVIDIA driver on your system is too old"
    )


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning, PendingDeprecationWarning])
def test_what_concerns_the_authors_of_libraries_is_not_shown(category: type[Warning]) -> None:
    assert describe_warning("use another function", category, THEIRS) is None
    assert describe_warning("use another key", category, OURS) == "warning: use another key"


def test_noise_is_not_shown() -> None:
    text = "TrainingProgress is not in the state_dict. Its state will not be restored."
    assert describe_warning(text, UserWarning, THEIRS) is None
    assert describe_warning(text, UserWarning, OURS) is not None


def test_commands_show_them_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from plm_composer.errors import run_command

    monkeypatch.setattr("sys.warnoptions", [])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.raises(SystemExit):
            run_command(lambda: warnings.warn("mind the gap", stacklevel=1))
    assert capsys.readouterr().err == "warning: mind the gap\n"

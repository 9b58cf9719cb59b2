"""Checks before training: a missing extra and a busy machine."""

import os

import pytest

from plm_composer.errors import UserError
from plm_composer.studies import extras
from plm_composer.studies.runner import load_warning


def test_a_missing_package_names_the_extra(monkeypatch) -> None:
    extras.require_extras()
    monkeypatch.setattr(extras, "_PACKAGES", ("scipy", "no_such_package"))
    with pytest.raises(UserError, match="studies need no_such_package: make install-studies"):
        extras.require_extras()


def test_a_busy_machine_gives_a_warning(monkeypatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1.9, 0.0, 0.0))
    assert "the machine is busy (load 1.9" in str(load_warning())
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 5.0, 5.0))
    assert load_warning() is None

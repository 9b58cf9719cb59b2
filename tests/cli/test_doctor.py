"""``plm doctor``, as a user types it."""

import dataclasses
import json

import pytest
from typer.testing import CliRunner

import plm_composer.doctor.facts
from plm_composer.cli import app
from plm_composer.doctor.facts import Facts, Space
from tests.doctor.test_findings import CPU, GB

FULL = dataclasses.replace(CPU, folders=(Space("/work", GB, 5), Space("/tmp", GB, 9 * GB)))


@pytest.mark.parametrize(
    ("facts", "code", "last"), [(CPU, 0, "everything is ok"), (FULL, 1, "1 problem, 1 warning")], ids=["good", "bad"]
)
def test_the_exit_code_tells(facts: Facts, code: int, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plm_composer.doctor.facts, "collect_facts", lambda: facts)
    result = CliRunner().invoke(app, ["doctor"])
    lines = result.stdout.splitlines()
    assert result.exit_code == code
    assert lines[-1] == last
    assert all(line.split()[0] in ("ok", "warning", "problem") for line in lines[:-1])
    assert "\x1b" not in result.stdout


def test_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plm_composer.doctor.facts, "collect_facts", lambda: FULL)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    content = json.loads(result.stdout)
    assert result.exit_code == 1
    assert content["problems"] == 1
    assert {"level": "problem", "subject": "disk"}.items() <= next(
        finding for finding in content["findings"] if finding["level"] == "problem"
    ).items()
    assert content["facts"]["folders"][0] == {"path": "/work", "total": GB, "free": 5, "writable": True}

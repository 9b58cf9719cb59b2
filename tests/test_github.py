"""What GitHub reads: the workflow's commands exist, and the forms ask for what a report needs."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests.commands import REPOSITORY

GITHUB = REPOSITORY / ".github"
FORMS = ("bug_report", "feature_request")


def read(path: str) -> dict[Any, Any]:
    content = yaml.safe_load((GITHUB / path).read_text())
    assert isinstance(content, dict)
    return content


def test_the_workflow_calls_what_exists() -> None:
    jobs = read("workflows/ci.yml")["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert ".ci/run" in commands
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)
    makefile = (REPOSITORY / "Makefile").read_text()
    script = (REPOSITORY / ".ci" / "run").read_text()
    targets = re.findall(r"^make ([\w-]+)", "\n".join([*commands, script]), re.MULTILINE)
    assert len(targets) > 3
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert subprocess.run(["bash", "-n", REPOSITORY / ".ci" / "run"], check=False).returncode == 0


def test_its_python_is_one_that_the_package_allows() -> None:
    pyproject = (REPOSITORY / "pyproject.toml").read_text()
    (allowed,) = re.findall(r'^requires-python = "(.*)"', pyproject, re.MULTILINE)
    for job in read("workflows/ci.yml")["jobs"].values():
        versions = [step["with"]["python-version"] for step in job["steps"] if "python" in step.get("uses", "")]
        assert len(versions) == 1
        assert Version(versions[0]) in SpecifierSet(allowed)
        assert 0 < job["timeout-minutes"] <= 90


def test_its_caches_change_with_what_is_installed() -> None:
    text = (GITHUB / "workflows" / "ci.yml").read_text()
    keys = re.findall(r"hashFiles\((.*?)\)", text)
    assert keys
    for key in keys:
        for file in re.findall(r"'(.*?)'", key):
            assert (REPOSITORY / file).is_file(), file


@pytest.mark.parametrize("name", FORMS)
def test_a_form_has_what_github_requires(name: str) -> None:
    form = read(f"ISSUE_TEMPLATE/{name}.yml")
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)


def test_a_bug_report_asks_for_the_line_the_config_and_the_machine() -> None:
    fields = {field.get("id"): field for field in read("ISSUE_TEMPLATE/bug_report.yml")["body"]}
    assert "plm doctor" in fields["doctor"]["attributes"]["label"]
    assert "config.yaml" in fields["config"]["attributes"]["label"]
    for name in ("command", "printed", "doctor"):
        assert fields[name]["validations"]["required"]

"""CITATION.cff: the fields that the format requires, and the package's own version and licence."""

from __future__ import annotations

from importlib.metadata import metadata

import yaml

import plm_composer
from tests.commands import REPOSITORY


def test_it_cites_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what version 1.2.0 requires
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == plm_composer.__version__
    assert citation["title"] == metadata("plm-composer")["Name"]
    assert citation["license"] == metadata("plm-composer")["License-Expression"]
    assert all(author["name"] for author in citation["authors"])

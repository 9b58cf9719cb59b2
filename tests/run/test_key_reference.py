"""docs/keys.md says what the schema says."""

from __future__ import annotations

import dataclasses
import sys

from plm_composer.config.schema import DataConfig, TrainConfig
from plm_composer.model.config import ESM2Config
from plm_composer.run.key_reference import argument_docs, attribute_docs
from tests.commands import REPOSITORY, run_in


def test_the_page_is_up_to_date() -> None:
    made = run_in(REPOSITORY, sys.executable, "-m", "plm_composer.run.key_reference")
    assert made.returncode == 0, made.stderr
    page = (REPOSITORY / "docs" / "keys.md").read_text()
    assert made.stdout == page, "make it again: python -m plm_composer.run.key_reference > docs/keys.md"


def test_every_key_is_explained() -> None:
    explained = [
        (TrainConfig, attribute_docs(TrainConfig)),
        (DataConfig, attribute_docs(DataConfig)),
        (ESM2Config, argument_docs(ESM2Config)),
    ]
    for schema, meanings in explained:
        assert [field.name for field in dataclasses.fields(schema)] == list(meanings)
        assert all(meaning.endswith((".", ")")) for meaning in meanings.values()), meanings


def test_the_page_has_types_defaults_and_links() -> None:
    rows = (REPOSITORY / "docs" / "keys.md").read_text().splitlines()
    assert any(
        row.startswith("| [`budget`](choosing.md#a-budget-of-time) | text or null | `null` | Wall") for row in rows
    )
    assert any(row.startswith("| `data.num_workers` | a whole number | `2` | Processes") for row in rows)
    assert any(row.startswith("| [`model.qk_norm`](variants.md) | true or false | `false` | Normalise") for row in rows)
    assert any("`muon`" in row for row in rows if row.startswith("| [`optimizer.name`]"))

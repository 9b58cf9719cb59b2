"""Rows of a benchmark: printed as a table, kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

Row = Mapping[str, Any]


def print_table(title: str, rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    """Prints rows under a title, in Markdown.

    Args:
        title: Said above the table.
        rows: Key to value.
        columns: Key to heading, in order; keys that no row has are left out.
    """
    shown = {key: heading for key, heading in columns.items() if any(row.get(key) is not None for row in rows)}
    cells = [[_format(row.get(key)) for key in shown] for row in rows]
    align = ["left" if all(isinstance(row.get(key), str) for row in rows) else "right" for key in shown]
    print(f"\n{title}\n")
    print(tabulate(cells, headers=list(shown.values()), tablefmt="github", colalign=align, disable_numparse=True))


def write_json(path: Path | None, rows: Sequence[Row]) -> None:
    """Writes rows as a JSON list of objects, if there is a path."""
    if path is not None:
        path.write_text(json.dumps(rows, indent=1) + "\n")


def _format(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

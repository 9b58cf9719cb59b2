"""``plm doctor``: this machine and its packages, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import TYPE_CHECKING

import typer

from plm_composer.cli.options import AsJson

if TYPE_CHECKING:
    from plm_composer.doctor.findings import Finding, Level

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


def doctor(as_json: AsJson = False) -> None:
    """Show versions, devices, kernels, and room in memory and on disk; say what is wrong with them, and what to do.

    The exit code is 0, or 1 if something is marked as a problem; warnings do not change it.
    """
    from plm_composer.doctor.facts import collect_facts
    from plm_composer.doctor.findings import find_all

    facts = collect_facts()
    findings = find_all(facts)
    counts = Counter(finding.level for finding in findings)
    if as_json:
        listed = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"problems": counts["problem"], "findings": listed, "facts": dataclasses.asdict(facts)}))
    else:
        _print(findings)
        print(_summarise(counts))
    raise typer.Exit(1 if counts["problem"] else 0)


def _print(findings: list[Finding]) -> None:
    """Prints a line a finding; a terminal gets colours, and long lines continue below their beginning."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        for finding in findings:
            print(f"{finding.level:<8} {finding.subject:<13}  {finding.message}")
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    for finding in findings:
        table.add_row(Text(finding.level, _STYLES[finding.level]), Text(finding.subject), Text(finding.message))
    console.print(table)


def _summarise(counts: Counter[Level]) -> str:
    words = [
        f"{counts[level]} {level}{'s' if counts[level] > 1 else ''}"
        for level in ("problem", "warning")
        if counts[level]
    ]
    return ", ".join(words) or "everything is ok"

"""Reads a report as its reader sees it, with the standard library's parser of HTML."""

from __future__ import annotations

import collections
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "br", "input", "link", "img"}


class Page(HTMLParser):
    """The text of a page.

    Attributes:
        text: All text of each element that has an id, and under "" that of the page.
        rows: The rows of the tables in each of these, as the texts of their cells.
        charts: Number of drawings in each of these.
        labels: The texts inside of drawings.
        tags: How often each element is there.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text: dict[str, str] = collections.defaultdict(str)
        self.rows: dict[str, list[list[str]]] = collections.defaultdict(list)
        self.charts: collections.Counter[str] = collections.Counter()
        self.labels: list[str] = []
        self.tags: collections.Counter[str] = collections.Counter()
        self._open: list[tuple[str, str]] = []
        self._row: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == [], "an element is not closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self._count(tag, attributes)
        if tag not in VOID:
            self._open.append((tag, dict(attributes).get("id") or ""))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1

    def _count(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "figure":
            self.charts.update(self._ids())
        if tag == "tr":
            self._row = []
            for name in self._ids():
                self.rows[name].append(self._row)
        if tag in ("td", "th"):
            self._row.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self._open]
        if "style" in tags:
            return
        for name in self._ids():
            self.text[name] += data
        if {"td", "th"} & set(tags):
            self._row[-1] += data
        if tags[-1:] == ["text"]:
            self.labels.append(data)

    def _ids(self) -> set[str]:
        return {name for _, name in self._open} | {""}

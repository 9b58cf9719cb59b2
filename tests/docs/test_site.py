"""The site of the documentation: it builds without a warning, and a browser shows it as it should be."""

from __future__ import annotations

import functools
import http.server
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browsers import LAPTOP, launched_browser
from tests.commands import REPOSITORY, run_in

OPENED = ("index", "keys", "performance", "benchmarks/studies/parts/results", "CONTRIBUTING")
"""Pages that are looked at: the first, the widest tables, and two that lie outside of ``docs/``."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the site. A link that leads nowhere, or a page that the navigation leaves out, is an error."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: make install-docs")
    pytest.importorskip("material", reason="mkdocs-material is not installed: make install-docs")
    folder = tmp_path_factory.mktemp("site") / "docs"
    result = run_in(REPOSITORY, sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Serves the site."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched_browser() as launched:
        yield launched


def test_every_page_is_there(site: Path) -> None:
    for page in (REPOSITORY / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").is_file(), page
    for outside in ("CONTRIBUTING", "CHANGELOG", "plm_composer/sample/index", "benchmarks/studies/parts/results"):
        assert (site / f"{outside}.html").is_file(), outside


@pytest.mark.parametrize("name", OPENED)
def test_a_page_loads_from_here_alone_and_fits_a_laptop(browser: Any, address: str, name: str) -> None:
    page = browser.new_page(viewport=LAPTOP)
    messages, requests, failures = [], [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.on("requestfailed", lambda request: failures.append(request.url))
    page.on("response", lambda response: failures.append(response.url) if response.status >= 400 else None)
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    width, shown = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width <= shown
    assert (messages, failures) == ([], [])
    assert [url for url in requests if not url.startswith((address, "data:"))] == []
    page.close()


def test_the_search_finds_a_key(browser: Any, address: str) -> None:
    page = browser.new_page(viewport=LAPTOP)
    page.goto(f"{address}/index.html")
    page.locator("input.md-search__input").fill("device_train_microbatch_tokens")
    page.locator(".md-search-result__link", has_text=re.compile("All keys|The run")).first.wait_for()
    page.close()


def test_the_index_leads_to_every_page(site: Path) -> None:
    index = (REPOSITORY / "docs" / "index.md").read_text()
    linked = set(re.findall(r"\]\((\w+\.md)\)", index))
    assert linked == {page.name for page in (REPOSITORY / "docs").glob("*.md")} - {"index.md"}

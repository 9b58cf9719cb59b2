"""A hook of mkdocs: pages and pictures outside of ``docs/`` that a page links to are part of the site, too.

Links are written for the repository, relative to the file that has them. Here they become links of the site, whose root
holds what lies in ``docs/``, and beside it the files from outside under their paths in the repository.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = "docs"
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_CODE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside of ``docs/`` that the pages link to, and those that these link to."""
    waiting = [f"{DOCS}/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        for path in _linked_files(waiting.pop()):
            if path not in seen and not path.startswith(f"{DOCS}/"):
                seen.add(path)
                place = {"abs_src_path": str(REPOSITORY / path), "inclusion": InclusionLevel.NOT_IN_NAV}
                files.append(File.generated(config, path, **place))
                if path.endswith(".md"):
                    waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns a page's links of the repository into links of the site."""
    here = posixpath.dirname(page.file.src_uri)

    def of_site(match: re.Match[str]) -> str:
        link, hash_sign, heading = match[1].partition("#")
        if "://" in link or not link:
            return match[1]
        target = _of_site(posixpath.normpath(posixpath.join(_folder(page.file.src_uri), link)))
        return posixpath.relpath(target, here or ".") + hash_sign + heading

    text_and_code = _CODE.split(markdown)
    text_and_code[::2] = [_LINK.sub(of_site, text) for text in text_and_code[::2]]
    return "".join(text_and_code)


def _linked_files(path: str) -> Iterator[str]:
    """Paths in the repository of the files that a page links to."""
    text = _CODE.sub("", (REPOSITORY / path).read_text())
    for link in _LINK.findall(text):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link.partition("#")[0]))
        if "://" not in link and (REPOSITORY / target).is_file():
            yield target


def _folder(uri: str) -> str:
    """The folder in the repository of a page of the site."""
    return DOCS if (REPOSITORY / DOCS / uri).is_file() else posixpath.dirname(uri)


def _of_site(path: str) -> str:
    """The path in the site of a file of the repository."""
    return path.removeprefix(f"{DOCS}/")

"""The pages of the documentation, read: sections, tables, code, links."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^```(.*)$")
_HEADING = re.compile(r"^(#{1,6}) +(.*)$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block: the page and line it begins on, the words after the fence, its text."""

    page: Path
    line: int
    info: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}, line {self.line}"


def pages() -> list[Path]:
    """Every page people read: the root's and all of `docs/`."""
    return [*(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")), *sorted(DOCS.rglob("*.md"))]


def text_of(name: str) -> str:
    """A page of `docs/`."""
    return (DOCS / name).read_text("utf-8")


def blocks() -> Iterator[Block]:
    """Every fenced block of every page."""
    for page in pages():
        opened: tuple[int, str] | None = None
        lines: list[str] = []
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
            fence = _FENCE.match(line)
            if fence is None:
                lines.append(line)
            elif opened is None:
                opened, lines = (number, fence[1].strip()), []
            else:
                yield Block(page, opened[0], opened[1], "\n".join(lines) + "\n")
                opened = None
        assert opened is None, f"{page.name}: a fence is not closed"


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def sections(text: str) -> Mapping[str, str]:
    """The text under each heading, up to the next heading of any level, by the heading without code marks."""
    found: dict[str, str] = {}
    title = ""
    fenced = False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        heading = None if fenced else _HEADING.match(line)
        if heading is not None:
            title = heading[2].replace("`", "")
            found[title] = ""
        elif title:
            found[title] += line + "\n"
    return found


def rows(text: str) -> list[list[str]]:
    """The rows of all tables, as cells; without the lines under the headers."""
    lines = [line.strip() for line in prose(text).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if not all(set(cell) <= set("-: ") for cell in row)]


def codes(text: str) -> set[str]:
    """Everything marked as code outside of blocks."""
    return set(re.findall(r"`([^`\n]+)`", prose(text)))


def links(page: Path) -> list[str]:
    """The targets of a page's links that lead to files or headings here."""
    found = _LINK.findall(prose(page.read_text("utf-8")))
    return [target for target in found if "://" not in target]


def anchors(text: str) -> set[str]:
    """The anchors that headings make, as GitHub makes them."""
    titles = [_HEADING.match(line) for line in prose(text).splitlines()]
    plain = [re.sub(r"[^\w\- ]", "", title[2].lower()) for title in titles if title is not None]
    return {title.strip().replace(" ", "-") for title in plain}

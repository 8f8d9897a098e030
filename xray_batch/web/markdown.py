"""The little Markdown that model cards are written in, as blocks for a template, which escapes all text.

Headings, paragraphs, lists, tables with pipes, `code` and **bold**.  Anything else, HTML and links among it, is text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

#: A piece of a line, and its element: `code`, `strong`, or empty for plain text.
Piece: TypeAlias = tuple[str, str]
Line: TypeAlias = list[Piece]

_PIECES: Final = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*")
_HEADING: Final = re.compile(r"(#{1,6}) +(.+)")
_ITEM: Final = re.compile(r"[-*] +(.+)")
_RULE: Final = re.compile(r"\|?[ :|-]*-[ :|-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A heading, a paragraph, a list or a table."""

    kind: str  #: `heading`, `paragraph`, `list` or `table`
    level: int = 0  #: of a heading, 1 to 6
    lines: list[Line] = field(default_factory=list)  #: one of a heading or paragraph, one for each item of a list
    header: list[Line] = field(default_factory=list)  #: cells
    rows: list[list[Line]] = field(default_factory=list)  #: of cells


def read_blocks(text: str) -> list[Block]:
    """Read a text; no text is wrong, at worst it is all paragraphs."""
    chunks = re.split(r"\n\s*\n", text.replace("\r\n", "\n"))
    return [block for chunk in chunks if chunk.strip() for block in _read_chunk(chunk.strip().split("\n"))]


def _read_chunk(lines: Sequence[str]) -> Iterator[Block]:
    """Read lines between two empty ones."""
    heading = _HEADING.fullmatch(lines[0].strip())
    if heading:
        yield Block(kind="heading", level=len(heading[1]), lines=[_read_line(heading[2])])
        if lines[1:]:
            yield from _read_chunk(lines[1:])
    elif len(lines) > 1 and lines[0].startswith("|") and _RULE.fullmatch(lines[1].strip()):
        yield Block(kind="table", header=_cells(lines[0]), rows=[_cells(line) for line in lines[2:]])
    elif all(_ITEM.match(line) or line.startswith("  ") for line in lines) and _ITEM.match(lines[0]):
        items = re.sub(r"\n\s+", " ", "\n".join(lines)).split("\n")
        yield Block(kind="list", lines=[_read_line(item[1:].strip()) for item in items])
    else:
        yield Block(kind="paragraph", lines=[_read_line(" ".join(line.strip() for line in lines))])


def _cells(line: str) -> list[Line]:
    return [_read_line(cell.strip()) for cell in line.strip().strip("|").split("|")]


def _read_line(text: str) -> Line:
    pieces: Line = []
    start = 0
    for found in _PIECES.finditer(text):
        pieces.append((text[start : found.start()], ""))
        pieces.append((found[1], "code") if found[1] is not None else (found[2], "strong"))
        start = found.end()
    return [piece for piece in (*pieces, (text[start:], "")) if piece[0]]

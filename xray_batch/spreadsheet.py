"""Texts in CSV files that people open in a spreadsheet."""

from typing import IO, Final

#: A cell that begins so is run as a formula by spreadsheets; an apostrophe in front prevents it.
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")


class LineFeeds:
    """A file for a writer of :mod:`csv` in its own dialect, whose lines nevertheless end with a line feed alone.

    A writer that is told to end them so leaves a carriage return in a text as it is, and whoever reads the file sees a
    new row there, and perhaps a formula; it quotes only what ends its own lines.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, line: str) -> int:
        """Write one line, as the writer gives it."""
        return self._file.write(line.removesuffix("\r\n") + "\n")


def safe_cell(text: str) -> str:
    """Return a text that no spreadsheet runs as a formula; one that looks like such a cell already gets one more '."""
    return "'" + text if _is_formula(text) else text


def cell_text(cell: str) -> str:
    """Return the text that :func:`safe_cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _is_formula(text: str) -> bool:
    """Whether a text is a formula, after any number of apostrophes."""
    return text.lstrip("'").startswith(_FORMULA_STARTS)

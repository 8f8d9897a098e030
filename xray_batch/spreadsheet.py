"""Texts in CSV files that people open in a spreadsheet."""

from typing import Final

#: A cell that begins so is run as a formula by spreadsheets; an apostrophe in front prevents it.
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(text: str) -> str:
    """Return a text that no spreadsheet runs as a formula; one that looks like such a cell already gets one more '."""
    return "'" + text if _is_formula(text) else text


def cell_text(cell: str) -> str:
    """Return the text that :func:`safe_cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _is_formula(text: str) -> bool:
    """Whether a text is a formula, after any number of apostrophes."""
    return text.lstrip("'").startswith(_FORMULA_STARTS)

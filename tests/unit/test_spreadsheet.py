"""Texts that come back from a spreadsheet's file as they were, and run nothing in it."""

import pytest

from xray_batch.spreadsheet import cell_text, safe_cell


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'-5", "''=1"])
def test_a_formula_is_text(text):
    """What a spreadsheet would run, or an apostrophe makes a text, has one more in front and comes back without it."""
    assert safe_cell(text) == "'" + text
    assert cell_text(safe_cell(text)) == text


@pytest.mark.parametrize("text", ["", "plain", "a=b", "'quoted'", "'"])
def test_other_text_stays(text):
    """Everything else is left as it is, there and back."""
    assert safe_cell(text) == text
    assert cell_text(text) == text

"""Texts that come back from a spreadsheet's file as they were, and run nothing in it."""

import csv
import io

import pytest

from xray_batch.export import write_csv
from xray_batch.records import RESULT_COLUMNS
from xray_batch.spreadsheet import LineFeeds, cell_text, safe_cell


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


@pytest.mark.parametrize("text", ["a\r=1+1", "a\n=1+1", "a\r\n=1+1", "a\r\n", "\r\n"])
def test_no_text_begins_a_row(text):
    """A name may hold what ends lines: it is quoted, so that readers see one row; lines end with a line feed alone."""
    file = io.StringIO(newline="")
    write_csv([dict.fromkeys(RESULT_COLUMNS, "x") | {"source_name": text, RESULT_COLUMNS[-1]: text}], file)
    heading, row = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert cell_text(dict(zip(heading, row, strict=True))["source_name"]) == text
    assert file.getvalue().startswith(",".join(RESULT_COLUMNS) + "\n")


def test_a_line_ends_with_a_line_feed():
    """That of the writer goes, what a text ends with stays."""
    file = io.StringIO(newline="")
    csv.writer(LineFeeds(file)).writerows([["a", 1], ["b\r\n"]])
    assert file.getvalue() == 'a,1\n"b\r\n"\n'

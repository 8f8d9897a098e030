"""Rows of results for people and for programs."""

import io
import os
import sys

import pytest
import typer
from rich.console import Console

from xray_batch import DISCLAIMER
from xray_batch.cli import output as output_module
from xray_batch.cli.output import ExportFormat, check_picture_path, print_table, write_rows
from xray_batch.errors import ConfigurationError
from xray_batch.records import RESULT_COLUMNS


def make_rows(count):
    """Yield rows of analysed films."""
    for number in range(count):
        facts = {"result_id": number, "source_name": f"{number}.dcm", "outcome": "normal", "warnings": ""}
        yield dict.fromkeys(RESULT_COLUMNS) | facts | {"p_pneumonia": 0.125}


def rows_that_end(count):
    """Yield rows until the database is lost."""
    yield from make_rows(count)
    raise ConnectionError


@pytest.mark.parametrize("form", ExportFormat)
def test_no_part_of_a_file_is_left(form, tmp_path):
    """When the rows end with an error, there is no file that looks like one that has all of them."""
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(ConnectionError):
        write_rows(rows_that_end(10), form, tmp_path / "link")
    assert not (tmp_path / "file").exists()


def test_what_is_no_file_is_left(tmp_path):
    """A pipe to another program stays when writing fails."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDWR)
    with pytest.raises(ConnectionError):
        write_rows(rows_that_end(1), ExportFormat.JSON, tmp_path / "pipe")
    assert os.read(reader, 100).startswith(b'{"result_id": 0')
    os.close(reader)


def test_an_earlier_file_outlasts_a_missing_library(tmp_path, monkeypatch):
    """Where Parquet cannot be written at all, an earlier file stays."""
    (tmp_path / "all.parquet").write_bytes(b"of yesterday")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match="needs pyarrow"):
        write_rows(make_rows(1), ExportFormat.PARQUET, tmp_path / "all.parquet")
    assert (tmp_path / "all.parquet").read_bytes() == b"of yesterday"


def test_parquet_needs_a_name():
    """A binary file is not written to the terminal."""
    with pytest.raises(typer.BadParameter, match="add --output"):
        write_rows(make_rows(1), ExportFormat.PARQUET, None)


def test_a_long_table_is_printed_as_it_is_read(monkeypatch):
    """Of many rows the first are printed before the last are read; each is there once, the disclaimer at the end."""
    monkeypatch.setattr(output_module, "_TABLE_ROWS", 4)
    page = io.StringIO()

    def rows():
        for number, row in enumerate(make_rows(10)):
            assert page.getvalue().count(".dcm") >= number - 8
            yield row

    print_table(rows(), Console(file=page, width=100))
    lines = page.getvalue().splitlines()
    assert [line.split()[1] for line in lines if ".dcm" in line] == [f"{number}.dcm" for number in range(10)]
    words = " ".join(page.getvalue().split())
    assert words.endswith(DISCLAIMER)
    assert words.count(DISCLAIMER) == 1


@pytest.mark.parametrize("count", [0, 4])
def test_a_short_table_is_one(count, monkeypatch):
    """Few rows, or none, are one table with its heading."""
    monkeypatch.setattr(output_module, "_TABLE_ROWS", 4)
    page = io.StringIO()
    print_table(make_rows(count), Console(file=page, width=100))
    assert page.getvalue().count("P(pneumonia)") == 1
    assert page.getvalue().count(".dcm") == count


@pytest.mark.parametrize("name", ["film.jpg", "film.JPEG", "film.tif", "film.pdf"])
def test_a_png_is_called_nothing_else(name, tmp_path):
    """A name that means another format is refused, with one that fits."""
    with pytest.raises(typer.BadParameter, match=r"--out is .*film\.\w+, but a PNG is written; name it film\.png$"):
        check_picture_path(tmp_path / name, (), "--out")


@pytest.mark.parametrize("name", ["film.png", "film.PNG", "film", "film.model-input.png", "film.part", "tmp.Zq8xU2"])
def test_names_that_a_png_may_have(name, tmp_path):
    """Its own suffix, none, and those that mean no format."""
    check_picture_path(tmp_path / name, (), "--out")

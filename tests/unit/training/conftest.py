"""Labelled images that are made up: stripes where there is a pneumonia, none where there is not."""

import csv
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Row = tuple[str, str, str, str]

HEADER: Row = ("file", "label", "patient_id", "source")


def write_labels(path: Path, rows: Iterable[Iterable[str]]) -> Path:
    """Write a list of labels with the usual columns and return its path."""
    with path.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([HEADER, *rows])
    return path


def write_images(folder: Path, rows: Iterable[Row]) -> None:
    """Write one 64 x 64 PNG per row; no two are copies of one picture."""
    random = np.random.default_rng(0)
    for file, label, _, _ in rows:
        stripes = 60 * (np.arange(64) // 4 % 2) if label != "normal" else 30
        background = np.kron(random.integers(0, 100, (16, 16)), np.ones((4, 4), dtype=int))
        pixels = (30 + stripes + background + random.integers(0, 40, (64, 64))).astype(np.uint8)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / file)


def make_folder(folder: Path, rows: Iterable[Row]) -> Path:
    """Make a folder with `labels.csv` and its images."""
    folder.mkdir()
    rows = list(rows)
    write_images(folder, rows)
    write_labels(folder / "labels.csv", rows)
    return folder


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder with `labels.csv` and its images."""

    def make(rows: Iterable[Row], name: str = "data") -> Path:
        return make_folder(tmp_path / name, rows)

    return make


@pytest.fixture(scope="module")
def make_lasting_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make such a folder for all tests of a file, which do not change it."""

    def make(rows: Iterable[Row]) -> Path:
        return make_folder(tmp_path_factory.mktemp("lasting") / "data", rows)

    return make

"""What `xray-batch stats` tells of files and folders."""

import csv
import io

import numpy as np
import pytest
from installed_command import make_bad_files, make_films, run_command
from matplotlib.figure import Figure
from PIL import Image

from xray_batch import DISCLAIMER
from xray_batch.bundle import PACKAGED_BUNDLES, Bundle
from xray_batch.cli.histogram import draw_histograms
from xray_batch.decode import decode_file
from xray_batch.demo import sample_files
from xray_batch.pipeline.pixel_facts import measure_pixels
from xray_batch.pipeline.survey import FileFacts, Totals, input_range
from xray_batch.standardize import prepare

SPEC = Bundle(PACKAGED_BUNDLES / "default").manifest.input_spec


def test_json(tmp_path):
    """Each file has its line, in order of name, with what NumPy says of its pixels; the last is of all."""
    done = run_command("stats", sample_files(), "--home", tmp_path, "--format", "json")
    assert done.code == 0, done.err
    *rows, last = done.rows
    paths = sorted(sample_files().iterdir())
    assert [row["file"] for row in rows] == [str(path) for path in paths]
    films = [row for row in rows if row["reason_code"] is None]
    images = [decode_file(row["file"]) for row in films]
    for row, image in zip(films, images, strict=True):
        pixels, model_input = image.pixels.astype(np.float64), prepare(image, SPEC).pixels.astype(np.float64)
        assert (row["rows"], row["columns"]) == pixels.shape
        assert (row["min"], row["max"]) == (pixels.min(), pixels.max())
        assert (row["mean"], row["sd"]) == pytest.approx((pixels.mean(), pixels.std()), abs=1e-9)
        assert (row["input_min"], row["input_max"]) == (model_input.min(), model_input.max())
        assert (row["input_mean"], row["input_sd"]) == pytest.approx((model_input.mean(), model_input.std()), abs=1e-6)
    summary = last["summary"]
    everything = np.concatenate([image.pixels.ravel() for image in images]).astype(np.float64)
    assert (summary["files"], summary["films"], summary["pixels"]) == (10, 7, everything.size)
    assert (summary["mean"], summary["sd"]) == pytest.approx((everything.mean(), everything.std()), abs=1e-9)
    assert summary["refused"] == {"lateral_view": 1, "unsupported_modality": 1, "unreadable_file": 1}
    assert (summary["rows_min"], summary["rows_max"]) == (366, 625)


def test_table(tmp_path):
    """The table has a line per film, those that were not read have a sentence, and the summary counts both."""
    done = run_command("stats", sample_files(), "--home", tmp_path)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    (film,) = (line for line in lines if "06-16-bit.png" in line)
    assert film.split()[1:6] == ["png", "583", "x", "640", "16"]
    assert "not read: 08-lateral-view.dcm: lateral_view. (0018,5101) View Position is 'LL'" in done.out
    assert any(line.replace("│", " ").split() == ["read", "7"] for line in lines)
    assert any("not read: unreadable_file" in line for line in lines)


def test_csv(tmp_path):
    """CSV has a row per file; a name that a spreadsheet would run is made harmless."""
    folder = tmp_path / "films"
    (film,) = make_films(folder, 1)
    film.rename(folder / "=cmd.png")
    done = run_command("stats", "=cmd.png", "absent.png", "--home", tmp_path, "--format", "csv", cwd=folder)
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["file"] for row in rows] == ["'=cmd.png", "absent.png"]
    assert (rows[0]["rows"], rows[0]["bits"], rows[0]["reason"]) == ("128", "8", "")
    assert (rows[1]["reason_code"], rows[1]["reason"]) == ("failed", "No such file or directory")
    assert done.code == 0, done.err


def test_nothing_can_be_read(tmp_path):
    """Where no file is a film, each is listed with its reason, there is no figure, and the exit code is 1."""
    bad = make_bad_files(tmp_path / "bad")
    done = run_command("stats", tmp_path / "bad", "--out", tmp_path / "figure.png", "--home", tmp_path)
    assert done.code == 1
    for path, code in bad.items():
        assert f"not read: {path.name}: {code}. " in done.out
    assert not (tmp_path / "figure.png").exists()


def test_an_empty_folder(tmp_path):
    """A folder without files says so; the exit code is 1."""
    (tmp_path / "empty").mkdir()
    done = run_command("stats", tmp_path / "empty", "--home", tmp_path / "home")
    assert (done.code, done.out) == (1, "There was no file.\n")


def test_many_files(tmp_path):
    """Of more files than a table shows there is the summary, and on stderr those that were not read."""
    make_films(tmp_path / "films", 62)
    (tmp_path / "films" / "text.dcm").write_text("no image")
    done = run_command("stats", tmp_path / "films", "--home", tmp_path)
    assert done.code == 0, done.err
    assert "film-001.png" not in done.out
    assert "text.dcm: unreadable_file. " in done.err
    assert any(line.replace("│", " ").split() == ["read", "62"] for line in done.out.splitlines())


def test_one_file_has_no_summary(tmp_path):
    """One file is one line of JSON; nothing is stored, the home folder is not even made."""
    (film,) = make_films(tmp_path / "films", 1)
    done = run_command("stats", film, "--home", tmp_path / "home", "--format", "json")
    assert done.code == 0, done.err
    (row,) = done.rows
    assert row["file"] == str(film)
    assert not (tmp_path / "home").exists()


def test_no_film_is_overwritten(tmp_path):
    """`--out` that names a film, by whatever name, or a folder that is not there is refused before any work."""
    (film,) = make_films(tmp_path / "films", 1)
    before = film.read_bytes()
    (tmp_path / "link.png").symlink_to(film)
    for out, sentence in (
        (film, "names the film itself"),
        (tmp_path / "link.png", "names the film itself"),
        (tmp_path / "nowhere" / "a.png", "in a folder that is not there"),
    ):
        done = run_command("stats", film.parent, "--out", out, "--home", tmp_path, TERMINAL_WIDTH="200")
        assert done.code == 2
        assert sentence in " ".join(done.err.split())
    assert film.read_bytes() == before


def test_figure(tmp_path):
    """`--out` writes a PNG picture."""
    done = run_command("stats", sample_files(), "--out", tmp_path / "figure.png", "--home", tmp_path)
    assert done.code == 0, done.err
    picture = np.asarray(Image.open(tmp_path / "figure.png").convert("L"))
    assert picture.shape[1] > 1000
    assert np.ptp(picture) == 255


def test_figure_says_what_it_shows():
    """Both histograms have labelled axes with their units, all pixels add up to 100 %, and no file is named."""
    totals = Totals()
    for name in ("06-16-bit.png", "07-photo.jpeg"):
        image = decode_file(sample_files() / name)
        rendered = measure_pixels(image.pixels, 0.0, 1.0)
        model_input = measure_pixels(prepare(image, SPEC).pixels, *input_range(SPEC))
        totals.add(FileFacts(path=sample_files() / name, rendered=rendered, model_input=model_input))
    figure = draw_histograms(totals, SPEC, "test-1.0.0")
    assert isinstance(figure, Figure)
    left, right = figure.axes
    assert left.get_xlabel() == "pixel value (0 black, 1 white)"
    assert "SD" in right.get_xlabel()
    assert (left.get_xlim(), right.get_xlim()) == ((0, 1), input_range(SPEC))
    for axes in figure.axes:
        assert axes.get_ylabel().endswith("pixels (%)")
        assert axes.patches[0].get_data().values.sum() == pytest.approx(100)
    written = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert DISCLAIMER in written
    assert "Histogram of all pixels, 2 films" in written
    assert not any("photo" in text for text in written)

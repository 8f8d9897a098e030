"""Picture workers as real processes: what they show, what they refuse, what they may use, and what their end costs."""

import hashlib
import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import RAMP, write_dicom
from installed_command import make_bad_files
from PIL import Image

from xray_batch.decode import decode_file, open_source
from xray_batch.pipeline import worker_process
from xray_batch.pipeline.picture_worker import PIXEL
from xray_batch.pipeline.pictures import WAITERS, Absence, NoPicture, Picture, Pictures
from xray_batch.pipeline.worker_process import WorkerLimits
from xray_batch.standardize import find_content

REPOSITORY = Path(__file__).resolve().parent.parent.parent

LIMITS = WorkerLimits(seconds=30.0, address_space=2048 << 20)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Have the workers import the package that is tested, installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


@contextmanager
def started(limits=LIMITS, **options):
    """Serve pictures, and end the workers."""
    pictures = Pictures(limits, **options)
    try:
        yield pictures
    finally:
        pictures.close()


def sha256_of(path):
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def show(pictures, path):
    """Have a file shown whose bytes are those that are looked for."""
    return pictures.render(sha256_of(path), [path])


def pixels_of(picture):
    """Return a picture's gray values, 0 to 65535."""
    return np.frombuffer(picture.pixels, PIXEL).reshape(picture.facts.rows, picture.facts.columns)


def workers():
    """Return the picture workers of this process."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            is_worker = (
                entry.name.isdecimal() and b"xray_batch.pipeline.picture_worker" in (entry / "cmdline").read_bytes()
            )
            if is_worker and f"\nPPid:\t{os.getpid()}\n" in (entry / "status").read_text():
                found.append(int(entry.name))
        except OSError:  # ended while we looked
            continue
    return found


def test_picture_is_the_rendered_film(tmp_path):
    """A film is shown with the gray values that the model is given before the resize, in all 16 bits."""
    path = write_dicom(tmp_path / "film.dcm", PhotometricInterpretation="MONOCHROME1")
    with started() as pictures:
        picture = show(pictures, path)
    film = decode_file(path).pixels
    assert (picture.facts.original_rows, picture.facts.original_columns) == film.shape
    assert np.array_equal(pixels_of(picture), np.rint(65535 * film))
    assert len(np.unique(pixels_of(picture))) > 1000
    content = find_content(film)
    assert picture.facts.content == (content.top, content.bottom, content.left, content.right)


def test_large_film_is_reduced(tmp_path):
    """A film larger than a screen is reduced, antialiased and in proportion, to a longer side of 2048 pixels."""
    stripes = np.zeros((1500, 3000), np.uint8)
    stripes[:, ::2] = 255
    stripes[:300] = 60
    Image.fromarray(stripes).save(tmp_path / "film.png")
    with started() as pictures:
        picture = show(pictures, tmp_path / "film.png")
    assert (picture.facts.rows, picture.facts.columns) == (1024, 2048)
    assert (picture.facts.original_rows, picture.facts.original_columns) == (1500, 3000)
    middle = pixels_of(picture)[600, 500:1500] / 65535
    assert np.ptp(middle) < 0.6  # no stripes of full contrast, which would come from leaving pixels out


def test_what_the_gate_refuses_is_shown(tmp_path):
    """A lateral film and another modality are shown; what is no picture comes with the reason in a sentence."""
    bad = make_bad_files(tmp_path)
    with started() as pictures:
        shown = {path.name: show(pictures, path) for path in bad}
        assert len(workers()) == 1
    for name in ("ct.dcm", "lateral.dcm", "hand.dcm"):
        assert np.array_equal(pixels_of(shown[name]), np.rint(65535 * open_source(tmp_path / name).render().pixels))
    for name in ("text.dcm", "empty.png", "bomb.png", "no-pixels.dcm"):
        assert shown[name].absence is Absence.REFUSED
        assert shown[name].reason


def test_only_the_recorded_bytes(tmp_path):
    """A file that has other bytes now is not shown; the next recorded place is tried."""
    path = write_dicom(tmp_path / "film.dcm")
    other = write_dicom(tmp_path / "other.dcm", RAMP.stored // 2)
    with started() as pictures:
        assert pictures.render(sha256_of(path), [other]) == NoPicture(absence=Absence.CHANGED)
        assert isinstance(pictures.render(sha256_of(path), [other, tmp_path / "gone", path]), Picture)


def test_only_regular_files(tmp_path):
    """Folders, pipes and devices are not opened for reading, and nobody waits for them."""
    os.mkfifo(tmp_path / "pipe")
    with started() as pictures:
        places = [tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / "gone"]
        assert pictures.render("0" * 64, places) == NoPicture(absence=Absence.GONE)
        assert workers() == []


def test_denied(tmp_path, monkeypatch):
    """A file that this process may not read is told apart from one that is gone."""
    from xray_batch.pipeline import pictures as pictures_module

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pictures_module, "open_regular_file", refuse)
    with started() as pictures:
        assert pictures.render("0" * 64, [tmp_path / "film"]) == NoPicture(absence=Absence.DENIED)


def test_memory(tmp_path):
    """A film that takes more memory than allowed is refused; the worker shows the next."""
    large = write_dicom(tmp_path / "large.dcm", np.tile(RAMP.stored, (125, 100)))
    small = write_dicom(tmp_path / "small.dcm")
    with started(WorkerLimits(seconds=30.0, address_space=640 << 20)) as pictures:
        refused = show(pictures, large)
        assert refused.absence is Absence.REFUSED
        assert "memory" in refused.reason
        assert isinstance(show(pictures, small), Picture)


def test_death_and_time(tmp_path):
    """A worker that does not answer in time is ended; the next film has a new one, and so after its death."""
    first, second, third = (write_dicom(tmp_path / f"{n}.dcm", RAMP.stored // (n + 1)) for n in range(3))
    with started(WorkerLimits(seconds=3.0, address_space=2048 << 20)) as pictures:
        assert isinstance(show(pictures, first), Picture)
        (hung,) = workers()
        os.kill(hung, signal.SIGSTOP)
        assert show(pictures, second) == NoPicture(absence=Absence.DIED)
        assert isinstance(show(pictures, second), Picture)
        (killed,) = workers()
        assert killed != hung
        os.kill(killed, signal.SIGKILL)
        while Path(f"/proc/{killed}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
            time.sleep(0.01)
        assert isinstance(show(pictures, third), Picture)


def test_at_most_two(tmp_path):
    """While two films are being rendered, a third is told to come again; what was shown a moment ago is still there."""
    paths = [write_dicom(tmp_path / f"{n}.dcm", RAMP.stored // (n + 1)) for n in range(4)]
    with started(patience_seconds=0.2) as pictures:
        known = show(pictures, paths[0])
        held = [pictures._idle.get() for _ in range(2)]
        assert show(pictures, paths[1]) == NoPicture(absence=Absence.BUSY)
        assert show(pictures, paths[0]) is known
        for worker in held:
            pictures._idle.put(worker)
        threads = [threading.Thread(target=show, args=(pictures, path)) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= len(workers()) <= 2
    assert workers() == []


def test_a_picture_is_not_kept_for_ever(tmp_path, monkeypatch):
    """A film whose original was removed is shown from memory for some minutes, and then no more."""
    path = write_dicom(tmp_path / "film.dcm", RAMP.stored)
    sha256 = sha256_of(path)
    with started() as pictures:
        known = pictures.render(sha256, [path])
        path.unlink()
        assert pictures.render(sha256, [path]) is known
        monkeypatch.setattr("xray_batch.pipeline.pictures.KEPT_SECONDS", 0.0)
        assert pictures.render(sha256, [path]) == NoPicture(absence=Absence.GONE)


def test_not_everybody_waits(tmp_path):
    """When as many wait as may, the next is told to come again at once: the threads are for other pages, too."""
    path = write_dicom(tmp_path / "film.dcm", RAMP.stored)
    with started(patience_seconds=LIMITS.seconds) as pictures:
        for _ in range(WAITERS):
            pictures._waiting.acquire()
        assert show(pictures, path) == NoPicture(absence=Absence.BUSY)


def test_closing_ends_a_hung_worker(tmp_path):
    """Whoever waits for a film when the page is stopped gets none, and no worker stays behind."""
    first, second = (write_dicom(tmp_path / f"{n}.dcm", RAMP.stored // (n + 1)) for n in range(2))
    ends = []
    with started() as pictures:
        show(pictures, first)
        (hung,) = workers()
        os.kill(hung, signal.SIGSTOP)
        waiting = threading.Thread(target=lambda: ends.append(show(pictures, second)))
        waiting.start()
        while not pictures._busy:
            time.sleep(0.01)
        start = time.monotonic()
    waiting.join()
    assert time.monotonic() - start < LIMITS.seconds
    assert ends == [NoPicture(absence=Absence.DIED)]
    assert workers() == []


def test_sandbox(tmp_path, monkeypatch):
    """A picture worker has the limits of a decode worker, no torch, database or secret, and is replaced in time."""
    monkeypatch.setattr(worker_process, "FILES_PER_WORKER", 1)
    monkeypatch.setenv("XRAY_BATCH_DATABASE_URL", "postgresql://reader:hunter2@db.example/results")
    paths = [write_dicom(tmp_path / f"{n}.dcm", RAMP.stored // (n + 1)) for n in range(2)]
    with started() as pictures:
        show(pictures, paths[0])
        (first,) = workers()
        process = Path(f"/proc/{first}")
        assert b"hunter2" not in (process / "environ").read_bytes()
        limits = {line[:26].strip(): line[26:47].strip() for line in (process / "limits").read_text().splitlines()}
        maps = (process / "maps").read_text()
        show(pictures, paths[1])
        assert first not in workers()
    assert limits["Max address space"] == str(2048 << 20)
    assert (limits["Max processes"], limits["Max file size"], limits["Max open files"]) == ("0", "0", "32")
    assert int(limits["Max cpu time"]) <= 60
    for library in ("torch", "sqlite3", "psycopg", "sqlalchemy"):
        assert library not in maps

"""Files made to hurt, through the real service: each ends as a coded refusal, and nothing beside it is touched."""

import gzip
import io
import os
import random
import re
import socket
import struct
import threading
import time
import zipfile
import zlib
from pathlib import Path

import pytest
from dicom_factory import raw_element, write_dicom
from engines import on_sqlite
from fault_checker import check, expected
from fault_drops import Burst
from film_encodings import png_chunk
from installed_command import WatchedFolder, files_below, png_header_of
from pydicom import uid

from xray_batch.errors import ReasonCode

SEED = int(os.environ.get("FAULT_SEED", "20261130"))

MB = 1 << 20

LONG = (pytest.mark.soak, pytest.mark.timeout(3600))


def _dicom(folder: Path, **attributes: object) -> bytes:
    return write_dicom(folder / "made.dcm", **attributes).read_bytes()


def _deflate_bomb(folder: Path) -> bytes:
    """Return a deflated data set of 1 MB that holds 1 GB."""
    content = _dicom(folder, transfer_syntax=uid.DeflatedExplicitVRLittleEndian)
    (group_length,) = struct.unpack_from("<L", content, 140)  # (0002,0000) File Meta Information Group Length
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = compressor.compress(struct.pack("<HH2sHL", 9, 0x1001, b"OB", 0, 1 << 30))
    for _ in range(1 << 10):
        bomb += compressor.compress(bytes(MB))
    return content[: 144 + group_length] + bomb + compressor.flush()


def _rle_bomb(folder: Path) -> bytes:
    """Return a film of 16,000 x 16,000 pixels in a few kilobytes of run lengths."""
    content = _dicom(folder, transfer_syntax=uid.RLELossless)
    return _with_size(content, 16_000)


def _jpeg_2000_bomb(folder: Path) -> bytes:
    """Return one of 65,535 x 65,535 in JPEG 2000."""
    return _with_size(_dicom(folder, transfer_syntax=uid.JPEG2000Lossless), 65_535)


def _frames_bomb(folder: Path) -> bytes:
    """Return one of 65,535 x 65,535 pixels and 100,000 frames, of which there are some bytes."""
    return _with_size(_dicom(folder, NumberOfFrames="100000"), 65_535)


def _with_size(content: bytes, side: int) -> bytes:
    for tag in (b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x11\x00US\x02\x00"):
        at = content.index(tag) + len(tag)
        content = content[:at] + struct.pack("<H", side) + content[at + 2 :]
    return content


def _tag_flood(folder: Path) -> bytes:
    """Return two million empty elements."""
    content = _dicom(folder)
    at = content.index(b"\x10\x00\x20\x00LO", 132)
    return content[:at] + raw_element(0x0009, 0x1001, "LO", b"") * 2_000_000 + content[at:]


def _deep_sequences(folder: Path) -> bytes:
    """Return sequences nested a hundred thousand deep."""
    content = _dicom(folder)
    at = content.index(b"\x08\x00\x60\x00CS", 132)
    begin = struct.pack("<HH2sHLHHL", 8, 0x1115, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    return content[:at] + begin * 100_000 + content[at:]


def _png_bomb(_folder: Path) -> bytes:
    """Return 40,000 x 40,000 pixels, all of them there, in 1.5 MB."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    compressor = zlib.compressobj(9)
    pixels = b"".join(compressor.compress(bytes(40_001 * 100)) for _ in range(400)) + compressor.flush()
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def _gzip_bomb(_folder: Path) -> bytes:
    """Return 1 GB of zeros in 1 MB."""
    written = io.BytesIO()
    with gzip.GzipFile(fileobj=written, mode="wb") as file:
        for _ in range(1 << 10):
            file.write(bytes(MB))
    return written.getvalue()


def _zip_bomb(_folder: Path) -> bytes:
    """Return an archive of ten members of 300 MB."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(10):
            with archive.open(f"{number}.dcm", "w", force_zip64=True) as member:
                for _ in range(300):
                    member.write(bytes(MB))
    return written.getvalue()


BOMBS = {
    _deflate_bomb: {ReasonCode.TOO_LARGE},
    _rle_bomb: {ReasonCode.TOO_LARGE, ReasonCode.PIXEL_DATA},
    _jpeg_2000_bomb: {ReasonCode.TOO_LARGE},
    _frames_bomb: {ReasonCode.TOO_LARGE, ReasonCode.MULTI_FRAME},
    _tag_flood: {ReasonCode.UNREADABLE_FILE},
    _deep_sequences: {ReasonCode.UNREADABLE_FILE, ReasonCode.TRUNCATED},
    _png_bomb: {ReasonCode.TOO_LARGE},
    _gzip_bomb: {ReasonCode.TOO_LARGE},
    _zip_bomb: {ReasonCode.TOO_LARGE},
    lambda _folder: png_header_of(50_000, 50_000): {ReasonCode.TOO_LARGE},
}


def peak_memory(pid: int) -> int:
    """Return the most memory that a process has held so far, in bytes."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) << 10


@pytest.mark.long
@on_sqlite
def test_bombs(service: WatchedFolder, tmp_path: Path) -> None:
    """Each is refused with its code; the service's own memory grows by less than 200 MB, and the films go on."""
    service.settings["XRAY_BATCH_UNPACK_ZIP"] = "true"
    process = service.start()
    service.wait_until_ready()
    films = Burst(service.home, SEED)
    for _ in films.drop(20):
        pass
    service.wait_until_idle(20)
    before = peak_memory(process.pid)
    for number, bomb in enumerate(BOMBS):
        made = tmp_path / f"{number}.bomb"
        made.write_bytes(bomb(tmp_path))
        made.rename(service.inbox / made.name)
    service.wait_until_idle(20 + len(BOMBS))
    grown = peak_memory(process.pid) - before
    assert grown < 200 * MB
    found = {row["source_name"]: row["reason_code"] for row in service.results()}
    for number, (bomb, codes) in enumerate(BOMBS.items()):
        assert found[f"{number}.bomb"] in codes, (bomb.__doc__, found[f"{number}.bomb"])
    for _ in films.drop(5):
        pass
    service.wait_until_idle(25 + len(BOMBS))
    assert process.poll() is None
    assert service.stop() == 0
    assert "Traceback" not in service.log


@pytest.mark.parametrize("count", [120, pytest.param(2000, marks=LONG)])
@on_sqlite
def test_damaged_films(service: WatchedFolder, tmp_path: Path, count: int) -> None:
    """Bits flipped, bytes cut out and repeated: each film has a row, analysed or refused by a code of its own."""
    chance = random.Random(SEED)
    sources = [
        _dicom(tmp_path, transfer_syntax=syntax)
        for syntax in (uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless)
    ]
    sources.append(next(iter(_films(tmp_path))))
    service.settings["XRAY_BATCH_INCOMPLETE_SECONDS"] = "0"
    process = service.start()
    service.wait_until_ready()
    for number in range(count):
        content = bytearray(chance.choice(sources))
        for _ in range(chance.randint(1, 8)):
            at = chance.randrange(len(content))
            kind = chance.randrange(4)
            if kind == 0:
                content[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                del content[at : at + chance.randint(1, 64)]
            elif kind == 2:
                content[at:at] = content[at : at + chance.randint(1, 64)]
            else:
                content[at : at + 4] = chance.choice([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"])
        (tmp_path / "damaged").write_bytes(bytes(content) + struct.pack("<L", number))
        (tmp_path / "damaged").rename(service.inbox / f"{number}.dcm")
    service.wait_until_idle(count)
    assert process.poll() is None
    assert service.stop() == 0
    accounting = service.accounting()
    assert (accounting.arrivals, accounting.lost) == (count, 0)
    codes = {row["reason_code"] for row in service.results()} - {None}
    assert codes <= set(ReasonCode) - {ReasonCode.ATTEMPTS_EXHAUSTED}
    assert "Traceback" not in service.log


def _films(folder: Path) -> list[bytes]:
    """Return a small PNG film."""
    home = folder / "elsewhere" / "home"
    (home / "inbox").mkdir(parents=True)
    burst = Burst(home, SEED)
    for _ in burst.drop(1):
        pass
    return [path.read_bytes() for path in home.rglob("*") if path.is_file()]


@on_sqlite
def test_what_is_no_single_file_is_left_alone(service: WatchedFolder, tmp_path: Path) -> None:
    """Links, pipes, sockets, and files of two names stay where they are, and nothing behind them is read."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"of somebody else")
    burst = Burst(service.home, SEED)
    inbox = service.inbox
    (inbox / "link.png").symlink_to(secret)
    (inbox / "folder").symlink_to(tmp_path)
    (inbox / "hard.png").hardlink_to(secret)
    os.mkfifo(inbox / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(tmp_path / "s"))
        (tmp_path / "s").rename(inbox / "socket.png")
        service.start()
        service.wait_until_ready()
        for _ in burst.drop(10):
            pass
        service.wait_until(lambda: service.accounting() == expected(burst))
        service.wait_until_idle(10)
        assert service.stop() == 0
    left = {path.name for path in inbox.iterdir()}
    assert {"link.png", "folder", "hard.png", "pipe.png", "socket.png"} <= left
    for path in inbox.iterdir():
        if path.is_symlink() or not path.is_dir():
            path.unlink()
    check(burst, service.database_url, [service.log])


@pytest.mark.parametrize("swaps", [1500, pytest.param(10_000, marks=LONG)])
@on_sqlite
def test_a_link_that_takes_a_files_place(service: WatchedFolder, tmp_path: Path, swaps: int) -> None:
    """While a racer swaps files and links to a secret all the time, the secret is never taken, nor its name lost."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "x.png").write_bytes(b"of somebody else: never to be read")
    service.settings |= {"XRAY_BATCH_SETTLE_SECONDS": "0", "XRAY_BATCH_SCAN_SECONDS": "0.1"}
    service.start()
    service.wait_until_ready()

    chance = random.Random(SEED)

    def swap() -> None:
        for number in range(swaps):
            study = service.inbox / f"study-{number % 5}"
            try:
                study.mkdir()
                (study / "x.png").write_bytes(b"ours %d" % number)
                study.rename(service.inbox / f".away-{number}")
                study.symlink_to(secret)
                time.sleep(chance.uniform(0, 0.002))
                study.unlink()
            except OSError:  # the service was faster
                continue

    racer = threading.Thread(target=swap)
    racer.start()
    racer.join()
    assert service.stop() == 0
    assert (secret / "x.png").read_bytes() == b"of somebody else: never to be read"
    taken = [path for path in files_below(service.home) if not path.is_relative_to(service.inbox)]
    assert not [path for path in taken if b"somebody else" in path.read_bytes()]
    assert service.accounting().lost == 0
    assert "Traceback" not in service.log

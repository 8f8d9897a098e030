"""Zip archives, unpacked by real processes: what comes out, what is refused, and what their end costs."""

import errno
import io
import os
import random
import resource
import socket
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from zip_factory import make_zip, repeat_first, set_of_all, zip_bytes

from xray_batch.errors import ReasonCode
from xray_batch.pipeline import unpack as unpack_module
from xray_batch.pipeline import unpack_worker
from xray_batch.pipeline.unpack import LIMITS, SECONDS, Unpacking

REPOSITORY = Path(__file__).resolve().parent.parent.parent

#: Does not deflate: its ratio is about 1.
NOISE = random.Random(1).randbytes(5000)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Have the processes import the package that is tested, installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


@pytest.fixture
def spool(tmp_path):
    """Name a folder that does not exist yet."""
    return tmp_path / "home" / "spool"


def unpack(archive, spool, seconds=SECONDS, **limits):
    """Unpack an archive within the product's limits, or others."""
    return Unpacking(archive, spool, replace(LIMITS, **limits), seconds).run()


def refusal(archive, spool, **limits):
    """Return why an archive is refused, and check that nothing of it is left."""
    end = unpack(archive, spool, **limits)
    assert (end.unpacked, end.failure) == (None, None)
    assert list(spool.iterdir()) == []
    return end.rejection


def contents(end):
    """Return the files that came out, by name."""
    return {path.name: path.read_bytes() for path in end.unpacked.files}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_member_is_a_file(tmp_path, spool, method):
    """Nested folders, equal names in them, an empty file: each member is a numbered file with its bytes."""
    members = {"DICOMDIR": b"index", "A/IM1": NOISE, "A/": b"", "B/C/IM1": b"2", "empty": b""}
    end = unpack(make_zip(tmp_path / "a", members, method=method), spool)
    assert contents(end) == {
        "0001-DICOMDIR": b"index",
        "0002-A_IM1": NOISE,
        "0003-B_C_IM1": b"2",
        "0004-empty": b"",
    }
    assert end.rejection.reason_code is ReasonCode.ZIP_ARCHIVE
    assert "4 files" in end.rejection.reason
    assert not any(path.stat().st_mode & 0o007 for path in end.unpacked.files)  # it is patient data


def test_no_member_leaves_its_folder(tmp_path, spool):
    """Names that climb, are absolute, are no text or have other separators lead nowhere; people recognise them."""
    names = ["../../x", "/etc/passwd", "..\\..\\win.ini", "a\nb", "\u202e\xff.dcm", "-rf", "x" * 300, "..", "CON"]
    archive = make_zip(tmp_path / "a", dict.fromkeys(names, NOISE))
    end = unpack(archive, spool)
    assert [path.name for path in end.unpacked.files] == [
        "0001-x",
        "0002-etc_passwd",
        "0003-win.ini",
        "0004-a_b",
        "0005-dcm",
        "0006-rf",
        f"0007-{'x' * 100}",
        "0008",
        "0009-CON",
    ]
    everything = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert everything == {archive, *end.unpacked.files}


def test_ignored_names_are_passed_over(tmp_path, spool):
    """What would be left alone in the inbox for its name does not come out."""
    passed_over = ["__MACOSX/._a", ".hidden/a", "b/.DS_Store", "Thumbs.db", "a.part", "b\\desktop.ini", "a~"]
    end = unpack(make_zip(tmp_path / "a", dict.fromkeys([*passed_over, "a"], b"1")), spool)
    assert contents(end) == {"0001-a": b"1"}


def test_an_archive_within_an_archive_is_a_file(tmp_path, spool):
    """It comes out as it is."""
    inner = zip_bytes({"x": NOISE})
    assert contents(unpack(make_zip(tmp_path / "a", {"inner.zip": inner}), spool)) == {"0001-inner.zip": inner}


def test_an_empty_archive_is_unpacked(tmp_path, spool):
    """It holds no file, and says so."""
    end = unpack(make_zip(tmp_path / "a", {}), spool)
    assert contents(end) == {}
    assert "no file" in end.rejection.reason


def test_the_folder_goes_with_its_holder(tmp_path, spool):
    """When nobody holds what was unpacked, it is removed."""
    end = unpack(make_zip(tmp_path / "a", {"x": b"1"}), spool)
    assert len(list(spool.iterdir())) == 1
    del end
    assert list(spool.iterdir()) == []


class TestRefused:
    """Each of these is refused as a whole, with nothing of it left."""

    def test_3000_members(self, tmp_path, spool):
        """More files than a study has; folders and ignored names are not counted, and the limit may be reached."""
        rejection = refusal(make_zip(tmp_path / "a", {f"{n}": b"" for n in range(3000)}), spool)
        assert rejection.reason_code is ReasonCode.TOO_LARGE
        assert "3,000 files" in rejection.reason
        mac = {f"__MACOSX/._{n}": b"" for n in range(3000)} | {f"{n}/": b"" for n in range(3000)}
        assert len(unpack(make_zip(tmp_path / "a", {"x": NOISE} | mac), spool, members=1).unpacked.files) == 1

    def test_a_bomb(self, tmp_path, spool):
        """A thousand times its size: given up when the real bytes exceed the ratio, whatever is declared."""
        rejection = refusal(make_zip(tmp_path / "a", {"x": NOISE, "y": bytes(50_000_000)}), spool)
        assert rejection.reason_code is ReasonCode.TOO_LARGE
        assert "100 times" in rejection.reason

    @pytest.mark.parametrize("limits", [{"member_bytes": 4999}, {"total_bytes": 12_000}, {"total_bytes": 100}])
    def test_too_many_bytes(self, tmp_path, spool, limits):
        """A member, all members together, or the archive itself: each has a limit."""
        archive = make_zip(tmp_path / "a", {"x": NOISE, "y": NOISE[::-1], "z": b"1" * 3000})
        assert refusal(archive, spool, **limits).reason_code is ReasonCode.TOO_LARGE

    @pytest.mark.parametrize("declared", [10, 5_000_001, 1 << 31])
    def test_lying_sizes(self, tmp_path, spool, declared):
        """A central directory that declares another size than comes out."""
        archive = make_zip(tmp_path / "a", {"x": NOISE * 2, "y": bytes(100_000)}, twist=set_of_all(file_size=declared))
        assert refusal(archive, spool).reason_code is ReasonCode.UNREADABLE_FILE

    def test_overlapping_members(self, tmp_path, spool):
        """Two members that are the same bytes: so do archives multiply that stay below every ratio."""
        rejection = refusal(make_zip(tmp_path / "a", {"x": NOISE}, twist=repeat_first), spool)
        assert rejection.reason_code is ReasonCode.UNREADABLE_FILE
        assert "overlap" in rejection.reason

    @pytest.mark.parametrize("flags", [1, 1 << 6, 1 << 13])
    def test_encrypted(self, tmp_path, spool, flags):
        """Any kind of encryption of one member."""
        archive = make_zip(tmp_path / "a", {"x": NOISE}, twist=set_of_all(flag_bits=flags))
        rejection = refusal(archive, spool)
        assert rejection.reason_code is ReasonCode.ZIP_ARCHIVE
        assert "encrypted" in rejection.reason

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_other_compression(self, tmp_path, spool, method):
        """Methods whose decoders would only be more to attack."""
        rejection = refusal(make_zip(tmp_path / "a", {"x": NOISE}, method=method), spool)
        assert rejection.reason_code is ReasonCode.ZIP_ARCHIVE
        assert f"method {method}" in rejection.reason

    @pytest.mark.parametrize("end", [-1, -30, 6000, 100])
    def test_truncated(self, tmp_path, spool, end):
        """An archive whose end is missing, be it in the central directory or in a member."""
        archive = make_zip(tmp_path / "a", {"x": NOISE, "y": NOISE})
        archive.write_bytes(archive.read_bytes()[:end])
        assert refusal(archive, spool).reason_code is ReasonCode.TRUNCATED

    def test_changed_bytes(self, tmp_path, spool):
        """A member that does not have its checksum; the good one before it does not come out either."""
        archive = make_zip(tmp_path / "a", {"x": b"good", "y": NOISE}, method=zipfile.ZIP_STORED)
        archive.write_bytes(archive.read_bytes().replace(NOISE, NOISE[::-1]))
        assert refusal(archive, spool).reason_code is ReasonCode.UNREADABLE_FILE


def test_no_damage_is_more_than_a_refusal(tmp_path):
    """Archives with random bytes changed are unpacked or refused; none ends in an exception."""
    chance = random.Random(5)
    good = zip_bytes({"a/x": NOISE[:300], "b": b"text " * 100, "c/": b""})
    for number in range(400):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        folder = tmp_path / str(number)
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY)
        path = tmp_path / "bad"
        path.write_bytes(bad)
        with path.open("rb") as archive:
            reply = unpack_worker.answer(archive, descriptor, LIMITS)
        os.close(descriptor)
        assert reply.failure is None, bytes(bad)
        assert reply.rejection is not None or reply.members == len(list(folder.iterdir()))


class TestTheProcess:
    """What a process that unpacks may use, and what becomes of its archive when it ends."""

    def test_limits_and_environment(self, tmp_path, spool, monkeypatch):
        """It has limits on memory, CPU time, files, processes and file size, and no secret."""
        monkeypatch.setenv("XRAY_BATCH_DATABASE_URL", "postgresql://secret")
        seen = {}
        environments = []
        real = Unpacking._receive

        class Recorded(subprocess.Popen):
            def __init__(self, *arguments, **options):
                environments.append(options["env"])
                super().__init__(*arguments, **options)

        def receive(self, connection):
            assert connection.poll(60)
            kinds = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_CORE")
            seen.update({kind: resource.prlimit(self._process.pid, getattr(resource, kind))[1] for kind in kinds})
            seen["oom_score_adj"] = int(Path(f"/proc/{self._process.pid}/oom_score_adj").read_text())
            return real(self, connection)

        monkeypatch.setattr(Unpacking, "_receive", receive)
        monkeypatch.setattr(unpack_module.subprocess, "Popen", Recorded)
        unpack(make_zip(tmp_path / "a", {"x": b"1"}), spool)
        assert seen == {
            "RLIMIT_AS": LIMITS.address_space,
            "RLIMIT_CPU": LIMITS.cpu_seconds,
            "RLIMIT_FSIZE": LIMITS.member_bytes,
            "RLIMIT_NOFILE": 32,
            "RLIMIT_NPROC": 0,
            "RLIMIT_CORE": 0,
            "oom_score_adj": 1000,  # the kernel ends it before the service
        }
        (environment,) = environments
        assert "XRAY_BATCH_DATABASE_URL" not in environment

    def test_one_that_hangs_is_ended(self, tmp_path, spool):
        """It costs its archive one attempt, and leaves nothing."""
        end = unpack(make_zip(tmp_path / "a", {"x": b"1"}), spool, seconds=0.0)
        assert (end.failure, end.transient, end.unpacked) == ("UnpackerDiedError", False, None)
        assert list(spool.iterdir()) == []

    def test_one_that_is_killed(self, tmp_path, spool):
        """Killed from another thread, even before it was started."""
        unpacking = Unpacking(make_zip(tmp_path / "a", {"x": b"1"}), spool)
        unpacking.kill()
        end = unpacking.run()
        assert (end.failure, end.transient) == ("UnpackerDiedError", False)
        assert list(spool.iterdir()) == []

    def test_a_full_disk_is_not_the_archives_fault(self, tmp_path, spool):
        """Where too little of the disk would be left, the archive is tried again for as long as it takes."""
        end = unpack(make_zip(tmp_path / "a", {"x": b"1"}), spool, free_bytes=1 << 60)
        assert (end.failure, end.transient) == ("OSError", True)
        assert list(spool.iterdir()) == []

    def test_an_archive_that_cannot_be_opened(self, tmp_path, spool):
        """That is the system's fault."""
        assert unpack(tmp_path / "absent", spool).transient

    def test_a_system_without_room_for_it(self, tmp_path, spool, monkeypatch):
        """Likewise; nothing stays open, however often that is tried."""

        def refuse():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr(socket, "socketpair", refuse)
        archive = make_zip(tmp_path / "a", {"x": b"1"})
        before = set(Path("/proc/self/fd").iterdir())
        assert unpack(archive, spool).transient
        assert set(Path("/proc/self/fd").iterdir()) == before

    @pytest.mark.parametrize(
        ("number", "transient"), [(errno.EFBIG, False), (errno.EINVAL, False), (errno.EDQUOT, True), (errno.EIO, True)]
    )
    def test_what_is_held_against_the_archive(self, monkeypatch, number, transient):
        """An error that is not the disk's would come again and again."""

        def fail(*_arguments):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(unpack_worker, "unpack", fail)
        assert unpack_worker.answer(io.BytesIO(), 0, LIMITS).transient is transient

    def test_memory(self, monkeypatch):
        """An archive that takes more memory than the process may have is too large."""

        def fail(*_arguments):
            raise MemoryError

        monkeypatch.setattr(unpack_worker, "unpack", fail)
        reply = unpack_worker.answer(io.BytesIO(), 0, LIMITS)
        assert reply.rejection.reason_code is ReasonCode.TOO_LARGE

    @pytest.mark.parametrize("surprise", ["link", "other name", "one too many", "second name", "folder"])
    def test_what_it_left_is_not_believed(self, tmp_path, spool, monkeypatch, surprise):
        """Anything but the plain files it told of: the archive gets none of them."""
        real = Unpacking._unpack_into

        def unpack_into(self, folder):
            reply = real(self, folder)
            file = folder.path / "0001-x"
            if surprise == "link":
                file.unlink()
                file.symlink_to("/etc/passwd")
            elif surprise == "other name":
                file.rename(folder.path / "x.dcm")
            elif surprise == "one too many":
                (folder.path / "0002-y").touch()
            elif surprise == "second name":
                (tmp_path / "second").hardlink_to(file)
            else:
                file.unlink()
                file.mkdir()
            return reply

        monkeypatch.setattr(Unpacking, "_unpack_into", unpack_into)
        end = unpack(make_zip(tmp_path / "a", {"x": b"1"}), spool)
        assert (end.failure, end.unpacked) == ("UnpackerDiedError", None)
        assert list(spool.iterdir()) == []

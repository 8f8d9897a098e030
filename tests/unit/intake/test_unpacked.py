"""Folders of unpacked archives: private and locked, then one rename into the inbox."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import uuid

import pytest

from xray_batch.intake import UnpackFolder, claims_in_spool, is_unpacked, remove_abandoned, scan, unpacked

ARRIVAL = uuid.UUID("6f1c2d3e-0000-4000-8000-000000000001")


@pytest.fixture
def folder(folders):
    """Make a folder with one complete member."""
    made = UnpackFolder(folders.spool)
    (made.path / "0001-x").write_bytes(b"member")
    return made


def test_it_goes_when_nobody_holds_it(folders):
    """Whatever way an archive's work ends, its folder does not stay."""
    folder = UnpackFolder(folders.spool)
    (folder.path / "0001-x").write_bytes(b"member")
    descriptor = folder.descriptor
    del folder
    assert list(folders.spool.iterdir()) == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


class TestOnAShareThatHangs:
    """Its holder waits for no share: what is not removed now is abandoned, and removed later."""

    def test_nobody_waits_who_drops_it(self, folders, monkeypatch):
        """The removal goes on without whoever dropped the folder."""
        answers, ended = threading.Event(), threading.Event()
        remove = unpacked.shutil.rmtree

        def hang(path):
            answers.wait(60)
            remove(path)
            ended.set()

        made = UnpackFolder(folders.spool)
        monkeypatch.setattr(unpacked.shutil, "rmtree", hang)
        monkeypatch.setattr(unpacked, "_REMOVE_SECONDS", 0.01)
        path = made.path
        del made
        assert path.exists()
        answers.set()
        assert ended.wait(60)
        assert not path.exists()

    def test_no_process_waits_at_its_end(self, folders):
        """What it still holds stays."""
        script = (
            "import sys, time; from pathlib import Path; from xray_batch.intake import UnpackFolder, unpacked; "
            "unpacked.shutil.rmtree = lambda _path: time.sleep(600); held = UnpackFolder(Path(sys.argv[1]))"
        )
        subprocess.run([sys.executable, "-c", script, folders.spool], check=True, timeout=60)
        assert len(list(folders.spool.iterdir())) == 1
        remove_abandoned(folders.spool)
        assert list(folders.spool.iterdir()) == []


def test_it_is_no_claim(folders, folder):
    """The spool's own sweep neither records what is in it nor removes it."""
    assert list(claims_in_spool(folders)) == []
    assert (folder.path / "0001-x").exists()


def test_one_in_use_is_not_abandoned(folders, folder):
    """Neither while its holder lives, nor while a process does that inherited its descriptor."""
    remove_abandoned(folders.spool)
    assert folder.path.exists()
    inherited = os.dup(folder.descriptor)
    folder._remove.detach()
    os.close(folder.descriptor)
    remove_abandoned(folders.spool)
    assert folder.path.exists()
    os.close(inherited)
    remove_abandoned(folders.spool)
    assert list(folders.spool.iterdir()) == []


def test_cleaning_up_touches_nothing_else(folders, claim_one, tmp_path):
    """Claims, other files and what a link leads to stay."""
    claimed = claim_one("x.unpacking")
    (tmp_path / "outside").mkdir()
    (folders.spool / "link.unpacking").symlink_to(tmp_path / "outside")
    remove_abandoned(folders.spool)
    assert claimed.path.exists()
    assert (tmp_path / "outside").exists()
    assert remove_abandoned(tmp_path / "absent") is None


@pytest.mark.parametrize("name", ["study.zip", "ward/a/study.zip", os.fsdecode(b"\xff.zip")])
def test_it_goes_where_the_archive_was(folders, folder, name):
    """Beside the archive's old place, under its name; the members are found by the scan, with no lock left."""
    (folders.inbox / name).parent.mkdir(parents=True, exist_ok=True)
    place = folder.move_into_inbox(folders, name, ARRIVAL)
    assert place == folders.inbox / f"{name}.unpacked"
    assert [file.name for file in scan(folders.inbox).files] == [f"{name}.unpacked/0001-x"]
    assert list(folders.spool.iterdir()) == []
    descriptor = os.open(place, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
    folder.remove()
    assert (place / "0001-x").read_bytes() == b"member"


@pytest.mark.parametrize("taken_by", ["file", "folder", "link"])
def test_nothing_in_the_inbox_is_replaced(folders, folder, taken_by):
    """Where its name is taken, the arrival id is in front."""
    taken = folders.inbox / "study.zip.unpacked"
    if taken_by == "file":
        taken.write_bytes(b"theirs")
    elif taken_by == "folder":
        taken.mkdir()
        (taken / "theirs").touch()
    else:
        taken.symlink_to(folders.processed)
    place = folder.move_into_inbox(folders, "study.zip", ARRIVAL)
    assert place == folders.inbox / f"{ARRIVAL}-study.zip.unpacked"
    assert (place / "0001-x").exists()
    assert list(folders.processed.iterdir()) == []


def test_the_archives_folder_is_gone(folders, folder, tmp_path):
    """Then the members go into the inbox itself, and through no link that somebody put there."""
    (folders.inbox / "ward").symlink_to(tmp_path)
    place = folder.move_into_inbox(folders, "ward/study.zip", ARRIVAL)
    assert place == folders.inbox / f"{ARRIVAL}-study.zip.unpacked"
    assert (place / "0001-x").exists()


def test_a_name_of_full_length(folders, folder):
    """Where the suffix does not fit, the name is cut."""
    place = folder.move_into_inbox(folders, "n" * 251 + ".zip", ARRIVAL)
    assert place.name.startswith(str(ARRIVAL))
    assert place.name.endswith("n.zip.unpacked")


def test_a_disk_that_refuses(folders, folder, monkeypatch):
    """The folder is where it was, and still goes when nobody holds it."""

    def fail(*_arguments, **_options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(unpacked.os, "rename", fail)
        with pytest.raises(OSError, match="Input/output"):
            folder.move_into_inbox(folders, "study.zip", ARRIVAL)
    assert folder.path.exists()
    folder.remove()
    assert list(folders.spool.iterdir()) == []
    assert list(folders.inbox.iterdir()) == []


def test_what_came_out_of_an_archive_is_known_by_its_folder():
    """At any depth; a file of that name is none."""
    assert is_unpacked("ward/study.zip.unpacked/0001-x")
    assert is_unpacked("study.zip.unpacked/a/b.zip")
    assert not is_unpacked("ward/study.zip.unpacked")
    assert not is_unpacked("study.zip")

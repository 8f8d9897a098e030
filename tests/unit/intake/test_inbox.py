import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xray_batch.intake import LeftAlone, remove_empty_subfolders, scan
from xray_batch.intake.inbox import is_ignored


def test_files_at_any_depth_are_found_with_their_facts(folders, drop):
    """A file's name is its path below the inbox."""
    path = drop("ward 3/study/series/x.dcm", b"12345")
    (file,) = scan(folders.inbox).files
    status = path.stat()
    assert (file.inbox / file.name, file.name, file.size) == (path, "ward 3/study/series/x.dcm", 5)
    assert (file.inode, file.device) == (status.st_ino, status.st_dev)
    assert (file.mtime_ns, file.ctime_ns) == (status.st_mtime_ns, status.st_ctime_ns)


def _nest(folder: Path, name: str, depth: int) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


def test_a_deep_inbox_is_read_and_cleaned_without_recursion(folders):
    """More nested folders than Python has stack end neither the scan nor the cleaning."""
    _nest(folders.inbox, "d", sys.getrecursionlimit() + 100)
    assert scan(folders.inbox).files == ()
    assert remove_empty_subfolders(folders.inbox, -10) == sys.getrecursionlimit() + 100


def test_a_path_longer_than_the_system_allows_is_counted(folders, drop):
    """It hides nothing else."""
    _nest(folders.inbox, "d" * 250, 20)
    drop("x.dcm")
    found = scan(folders.inbox)
    assert [file.name for file in found.files] == ["x.dcm"]
    assert found.left_alone == {LeftAlone.UNREADABLE: 1}
    subprocess.run(["rm", "-rf", folders.inbox], check=True)  # pytest could not


@pytest.mark.parametrize(
    "name",
    [
        b"n" * 255,
        b"\xff\xfe not utf-8.dcm",
        b"new\nline.dcm",
        b"-rf",
        b"CON",
        "עברית.dcm".encode(),
        b"\\x41.dcm",
        b" ",
    ],
)
def test_any_name_is_found(folders, drop, name):
    """A name is bytes that come back as they were."""
    drop(name)
    (file,) = scan(folders.inbox).files
    assert os.fsencode(file.name) == name


def test_names_that_differ_in_case_are_two_files(folders, drop):
    """Case is part of a name."""
    drop("X.dcm")
    drop("x.dcm")
    assert {file.name for file in scan(folders.inbox).files} == {"X.dcm", "x.dcm"}


@pytest.mark.parametrize(
    "name",
    [
        ".hidden",
        "._x.dcm",
        "x.dcm.part",
        "x.PARTIAL",
        "x.tmp",
        "x.temp",
        "x.filepart",
        "x.crdownload",
        "x.lftp",
        "x.!ut",
        ".x.swp",
        "x~",
        "Thumbs.db",
        "desktop.ini",
        "@eaDir/x.dcm",
        "__MACOSX/x.dcm",
        ".stfolder/x.dcm",
        "study.part/x.dcm",
    ],
)
def test_temporary_and_foreign_names_are_ignored(folders, drop, name):
    """Such a file, or all below such a folder, is counted once and not taken."""
    drop(name)
    found = scan(folders.inbox)
    assert found.files == ()
    assert found.left_alone == {LeftAlone.IGNORED_NAME: 1}


@pytest.mark.parametrize("name", ["x.dcm", "part", "x.part.dcm", "tmp", "IM000001", "template.dcm", "x"])
def test_ordinary_names_are_not_ignored(name):
    """Only the end of a name marks it as temporary."""
    assert not is_ignored(name)


def test_what_is_no_single_regular_file_is_counted_and_left(folders, tmp_path, monkeypatch):
    """Links, FIFOs and sockets are never opened, taken or changed."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "passwd").write_bytes(b"root")
    (folders.inbox / "link.dcm").symlink_to(secret / "passwd")
    (folders.inbox / "folder").symlink_to(secret, target_is_directory=True)
    os.link(secret / "passwd", folders.inbox / "hard.dcm")
    os.mkfifo(folders.inbox / "fifo.dcm")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(folders.inbox)  # the path of a socket must be short
        listener.bind("socket.dcm")
    found = scan(folders.inbox)
    assert found.files == ()
    assert found.left_alone == {
        LeftAlone.SYMBOLIC_LINK: 2,
        LeftAlone.HARD_LINK: 1,
        LeftAlone.SPECIAL_FILE: 2,
    }
    assert len(list(folders.inbox.iterdir())) == 5


def test_a_huge_file_is_counted_and_left(folders):
    """To hash what is no film would hold up all films, for hours where somebody makes a sparse file of terabytes."""
    for name, size in (("large.dcm", 10_000_000_000), ("huge.dcm", 10_000_000_001)):
        with (folders.inbox / name).open("wb") as file:
            file.truncate(size)
    found = scan(folders.inbox)
    assert [file.name for file in found.files] == ["large.dcm"]
    assert found.left_alone == {LeftAlone.HUGE_FILE: 1}


def test_a_missing_inbox_is_an_error(folders):
    """No inbox does not mean no files."""
    folders.inbox.rmdir()
    with pytest.raises(FileNotFoundError):
        scan(folders.inbox)


def test_old_empty_subfolders_are_removed_and_nothing_else(folders, drop):
    """A folder goes with its empty parents; files, young folders, links and foreign folders stay."""
    (folders.inbox / "old" / "older").mkdir(parents=True)
    (folders.inbox / ".stfolder").mkdir()
    drop("full/x.dcm")
    drop("foreign/x.part")
    (folders.inbox / "link").symlink_to(folders.processed, target_is_directory=True)
    (folders.processed / "empty").mkdir()
    two_hours_ago = time.time() - 7200
    for folder in ("old/older", "old", ".stfolder", "full", "foreign"):
        os.utime(folders.inbox / folder, (two_hours_ago, two_hours_ago))
    os.utime(folders.processed / "empty", (two_hours_ago, two_hours_ago))
    (folders.inbox / "young").mkdir()
    assert remove_empty_subfolders(folders.inbox) == 2
    left = {path.name for path in folders.inbox.iterdir()}
    assert left == {".stfolder", "full", "foreign", "link", "young"}
    assert (folders.processed / "empty").exists()


def test_the_folder_for_urgent_files_is_never_removed(folders):
    """However long it has been empty; what is below it goes like any other."""
    for name in ("urgent/ward", "ward/urgent"):
        (folders.inbox / name).mkdir(parents=True)
    remove_empty_subfolders(folders.inbox, older_than_seconds=-1)
    assert [path.name for path in folders.inbox.rglob("*")] == ["urgent"]

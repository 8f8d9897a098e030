import datetime as dt
import errno
import hashlib
import os
import subprocess
import threading
import time
import uuid

import pytest

from xray_batch.intake import SettleTracker, claim, claimed_file, claims_in_spool, disk, hash_claimed, scan
from xray_batch.intake.names import NAME_MAX, meant_by, printable, unique

ID = uuid.UUID("12345678-1234-4234-8234-123456789abc")


def _age(folder, seconds=3600):
    then = time.time() - seconds
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then))


@pytest.mark.parametrize(
    "name",
    [
        "x.dcm",
        "a/b/c/x.dcm",
        "a/a",
        b"n" * 255,
        b"\xff\xfe.dcm",
        b"\xffward\xff/x",
        b"new\nline",
        b"-rf",
        b"\\xff",
    ],
)
def test_a_claim_moves_the_file_and_keeps_its_name(folders, drop, find, files_in, name):
    """One file, now below a folder named by the arrival id."""
    drop(name)
    claimed = claim(find(), folders)
    assert files_in(folders.inbox) == {}
    assert files_in(folders.spool) == {f"{claimed.arrival_id}/{os.fsdecode(name)}": b"pixels"}
    assert claimed.path == folders.spool / str(claimed.arrival_id) / os.fsdecode(name)


def test_every_claim_has_its_own_folder(folders, drop):
    """Names that differ in case, or not at all, cannot meet in the spool."""
    for name in ("x.dcm", "X.dcm", "a/x.dcm"):
        drop(name)
    claims = [claim(file, folders) for file in scan(folders.inbox).files]
    assert len({claimed.arrival_id for claimed in claims}) == 3


def test_a_path_too_long_for_the_spool_is_cut_to_the_name(folders, files_in):
    """The spool's paths are longer than the inbox's; the file is taken all the same."""
    room = os.pathconf("/", "PC_PATH_MAX") - len(os.fsencode(folders.inbox)) - 10
    folder = folders.inbox
    while room > 205:
        folder /= "d" * 200
        room -= 201
        folder.mkdir()
    folder /= "d" * (room - 5)
    folder.mkdir()
    (folder / "x.dcm").write_bytes(b"pixels")
    (file,) = scan(folders.inbox).files
    claimed = claim(file, folders)
    assert claimed.source_name == "x.dcm"
    assert files_in(folders.spool) == {f"{claimed.arrival_id}/x.dcm": b"pixels"}
    assert list(claims_in_spool(folders)) == [claimed]


def test_a_vanished_file_leaves_no_trace(folders, drop, find):
    """No claim, no folder, no error."""
    path = drop("a/x.dcm")
    file = find()
    path.unlink()
    assert claim(file, folders) is None
    path.parent.rmdir()
    assert claim(file, folders) is None
    assert list(folders.spool.iterdir()) == []


def test_a_missing_spool_is_an_error(folders, drop, find):
    """It must not look as if the file had vanished."""
    drop("x.dcm")
    folders.spool.rmdir()
    with pytest.raises(FileNotFoundError):
        claim(find(), folders)


def _change_size(path, _outside):
    with path.open("ab") as file:
        file.write(b"more")


def _rewrite(path, _outside):
    path.write_bytes(b"others")  # as many bytes
    os.utime(path, (1, 1))


def _second_name(path, outside):
    os.link(path, outside.with_name("second name"))


def _replace(path, _outside):
    path.unlink()
    path.write_bytes(b"other")


def _link_in(path, outside):
    path.unlink()
    path.symlink_to(outside)


def _fifo(path, _outside):
    path.unlink()
    os.mkfifo(path)


def _hard_link(path, outside):
    path.unlink()
    os.link(outside, path)


def _folder(path, _outside):
    path.unlink()
    (path / "y").mkdir(parents=True)
    (path / "y" / "z.dcm").write_bytes(b"z")


@pytest.mark.parametrize("swap", [_change_size, _rewrite, _second_name, _replace, _link_in, _fifo, _hard_link, _folder])
def test_what_is_no_longer_the_settled_file_stays_in_the_inbox(folders, drop, find, tmp_path, swap):
    """Changed, replaced, or swapped for a link, FIFO or folder between scan and claim."""
    outside = tmp_path / "passwd"
    outside.write_bytes(b"root")
    path = drop("a/x.dcm")
    file = find()
    swap(path, outside)
    before = path.lstat()
    assert claim(file, folders) is None
    after = path.lstat()
    assert (before.st_ino, before.st_mode, before.st_size) == (after.st_ino, after.st_mode, after.st_size)
    assert list(folders.spool.iterdir()) == []
    assert outside.read_bytes() == b"root"


def test_a_link_swapped_in_for_a_subfolder_takes_nothing_from_outside(folders, drop, find):
    """Or a sender could have the database, or another's files, taken for his."""
    drop("a/results.sqlite3")
    (folders.home / "results.sqlite3").write_bytes(b"rows")
    before = (folders.home / "results.sqlite3").stat().st_ctime_ns
    file = find()
    (folders.inbox / "a").rename(folders.inbox / "b")
    (folders.inbox / "a").symlink_to("..")
    time.sleep(0.01)  # beyond a tick of the clock of files
    assert claim(file, folders) is None
    assert (folders.home / "results.sqlite3").read_bytes() == b"rows"
    assert (folders.home / "results.sqlite3").stat().st_ctime_ns == before  # nor was it taken and put back
    assert list(folders.spool.iterdir()) == []


def test_a_link_is_put_back_as_a_link_without_renameat2(folders, drop, find, tmp_path, monkeypatch):
    """Or the file that it leads to would get a second name in the inbox."""
    path = drop("x.dcm")
    file = find()
    (tmp_path / "passwd").write_bytes(b"root")
    _link_in(path, tmp_path / "passwd")
    monkeypatch.setattr(disk, "_libc_renameat2", lambda: disk._not_implemented)
    assert claim(file, folders) is None
    assert path.is_symlink()


def test_putting_back_does_not_replace_a_new_file(folders, drop, find, monkeypatch, files_in):
    """A sender drops the next file of that name while a wrong one is given back."""
    path = drop("x.dcm", b"first")
    file = find()
    path.unlink()
    path.write_bytes(b"second")
    rename = disk._renameat2

    def drop_first(source, name, folder):
        if not path.exists():
            path.write_bytes(b"third")
        rename(source, name, folder)

    monkeypatch.setattr(disk, "_renameat2", drop_first)
    assert claim(file, folders) is None
    assert sorted(files_in(folders.inbox).values()) == [b"second", b"third"]


def test_hashing_says_what_arrived(folders, claim_one):
    """Content, size, name and time of the claim."""
    before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
    claimed = claim_one("a/x.dcm", b"pixels")
    arrival = hash_claimed(claimed)
    assert arrival.arrival_id == claimed.arrival_id
    assert arrival.source_name == "a/x.dcm"
    assert arrival.content_sha256 == hashlib.sha256(b"pixels").hexdigest()
    assert arrival.size == 6
    assert before <= arrival.received_at <= dt.datetime.now(dt.UTC)


def test_a_file_arrives_when_it_is_claimed(folders, drop, find):
    """However old it is."""
    os.utime(drop("x.dcm"), (1, 1))
    before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
    assert claim(find(), folders).received_at >= before


def test_an_empty_file_arrives(claim_one):
    """It gets its row, as what it is."""
    arrival = hash_claimed(claim_one("x.dcm", b""))
    assert (arrival.size, arrival.content_sha256) == (0, hashlib.sha256(b"").hexdigest())


@pytest.mark.parametrize("name", ["x.dcm", "a/b/x.dcm", b"\xff/\xfe"])
def test_recovery_sees_the_same_arrival(folders, claim_one, name):
    """Recording it again after a crash changes nothing, not even the time."""
    claimed = claim_one(name)
    arrival = hash_claimed(claimed)
    time.sleep(0.02)
    (again,) = claims_in_spool(folders)
    assert again == claimed
    assert hash_claimed(again) == arrival


def test_the_source_name_can_be_stored_anywhere(claim_one):
    """Undecodable bytes are spelled out: no database takes a lone surrogate."""
    claimed = claim_one(b"\xffward/x\xe9.dcm")
    assert claimed.source_name == r"\xffward/x\xe9.dcm"
    assert claimed.source_name.encode()


def test_a_file_still_being_written_is_not_hashed(claim_one):
    """Not now; when the writer is done, all its bytes."""
    claimed = claim_one("x.dcm")
    with claimed.path.open("ab") as writer:
        writer.write(b" and more")
        assert hash_claimed(claimed) is None
    assert hash_claimed(claimed).content_sha256 == hashlib.sha256(b"pixels and more").hexdigest()


def test_a_file_changed_while_it_is_read_is_not_taken(claim_one, monkeypatch):
    """Without leases only the times betray the writer."""
    claimed = claim_one("x.dcm")
    digest = hashlib.file_digest

    def write_then_read(file, name):
        result = digest(file, name)
        claimed.path.write_bytes(b"PIXELS")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", write_then_read)
        assert hash_claimed(claimed) is None
    assert hash_claimed(claimed).content_sha256 == hashlib.sha256(b"PIXELS").hexdigest()


def test_links_and_fifos_in_the_spool_are_never_read(claim_one, tmp_path):
    """Whatever swapped them in."""
    claimed = claim_one("x.dcm")
    second = tmp_path / "second"
    os.link(claimed.path, second)
    assert hash_claimed(claimed) is None
    claimed.path.unlink()
    assert hash_claimed(claimed) is None
    claimed.path.symlink_to(second)
    assert hash_claimed(claimed) is None
    claimed.path.unlink()
    os.mkfifo(claimed.path)
    assert hash_claimed(claimed) is None


def test_empty_claim_folders_are_removed_when_old(folders, claim_one):
    """A crash before the rename leaves one; a young one may be another process's next claim."""
    old, young = folders.spool / str(uuid.uuid4()), folders.spool / str(uuid.uuid4())
    (old / "a" / "b").mkdir(parents=True)
    (young / "a").mkdir(parents=True)
    _age(old)
    claimed = claim_one("x.dcm")
    assert list(claims_in_spool(folders)) == [claimed]
    assert not old.exists()
    assert young.exists()


def test_what_is_not_ours_in_the_spool_is_not_touched(folders):
    """Only folders named by an arrival id are claims."""
    (folders.spool / "lost+found").mkdir()
    (folders.spool / "notes.txt").write_bytes(b"mine")
    (folders.spool / str(uuid.uuid4())).write_bytes(b"a file")
    (folders.home / "elsewhere").mkdir()
    (folders.home / "elsewhere" / "x.dcm").write_bytes(b"not sent")
    (folders.spool / str(uuid.uuid4())).symlink_to("../elsewhere")
    _age(folders.spool)
    assert list(claims_in_spool(folders)) == []
    assert len(list(folders.spool.iterdir())) == 4


def test_what_no_claim_can_have_left_goes_back_to_the_inbox(folders, files_in, tmp_path):
    """A folder with several files, or a link, swapped in for a file just before the process died."""
    several, link = folders.spool / str(uuid.uuid4()), folders.spool / str(uuid.uuid4())
    (several / "x.dcm").mkdir(parents=True)
    (several / "x.dcm" / "1").write_bytes(b"1")
    (several / "x.dcm" / "2").write_bytes(b"2")
    link.mkdir()
    (link / "y.dcm").symlink_to(tmp_path)
    assert claimed_file(folders, uuid.UUID(several.name)) is None
    assert list(claims_in_spool(folders)) == []
    assert list(folders.spool.iterdir()) == []
    assert files_in(folders.inbox / "x.dcm") == {"1": b"1", "2": b"2"}
    assert (folders.inbox / "y.dcm").is_symlink()


@pytest.mark.parametrize("name", ["x.dcm", "späť/影.dcm", "a\\b", r"\x41"])
def test_a_name_that_is_text_stays_as_it_is(name):
    """And is found among those it may stand for."""
    assert printable(name) == name
    assert name in meant_by(name)


def test_an_undecodable_name_can_be_found_again():
    """Also among backslashes, newlines, and bytes that spell a surrogate."""
    name = os.fsdecode(b"a\xff\\x41\n\\xff\xed\xa0\x80")
    assert printable(name).encode()
    assert meant_by(printable(name))[0] == name


@pytest.mark.parametrize("name", ["x.dcm", "n" * 251 + ".dcm", "影" * 85])
@pytest.mark.parametrize("reserved", [0, 12])
def test_a_unique_name_fits_and_keeps_the_suffix(name, reserved):
    """The front is cut, at a character."""
    made = unique(name, ID, reserved)
    assert made.startswith(f"{ID}-")
    assert len(os.fsencode(made)) + reserved <= NAME_MAX
    assert made.endswith(name[-4:])
    assert made.encode()


def test_many_senders_at_once_lose_and_double_nothing(folders, files_in):
    """Real tools drop 60 files in five ways while the inbox is swept without pause."""
    script = """
    for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
      echo copy $i > ../c$i; cp ../c$i inbox/copy$i.dcm; rm ../c$i
      echo part $i > inbox/part$i.dcm.part; mv inbox/part$i.dcm.part inbox/part$i.dcm
      echo link $i > inbox/.link$i; ln inbox/.link$i inbox/link$i.dcm; rm inbox/.link$i
      mkdir -p tree$i/a/b; echo moved $i > tree$i/a/b/x.dcm; mv tree$i inbox/
      mkdir -p inbox/deep/$i/b; echo deep $i > inbox/deep/$i/b/x.dcm
    done
    """
    sender = subprocess.Popen(["bash", "-c", script], cwd=folders.home)
    no = lambda _descriptor: False  # noqa: E731
    tracker = SettleTracker(folders.inbox, 0.0, incomplete_seconds=0.0, ends_early=no, has_ended=no)
    claimed = []
    last_look = False
    while not last_look:
        last_look = sender.poll() is not None
        claimed += [claim(file, folders) for file in tracker.complete(scan(folders.inbox).files)]
    kinds = ("copy", "part", "link", "moved", "deep")
    expected = sorted(f"{kind} {number}\n".encode() for kind in kinds for number in range(1, 13))
    assert sorted(files_in(folders.spool).values()) == expected
    assert files_in(folders.inbox) == {}
    assert all(hash_claimed(one) is not None for one in claimed if one is not None)


@pytest.mark.parametrize(
    ("name", "is_urgent"),
    [("urgent/x.dcm", True), ("urgent/a/x.dcm", True), ("urgent", False), ("a/urgent/x.dcm", False)],
)
def test_the_path_in_the_spool_says_what_is_urgent(folders, arrive, name, is_urgent):
    """Whoever finds it after a crash knows too."""
    assert arrive(name).is_urgent is is_urgent
    assert [claimed.is_urgent for claimed in claims_in_spool(folders)] == [is_urgent]


def test_bytes_that_cannot_be_written_out_have_not_arrived(folders, drop, find, monkeypatch):
    """They are on the disk, or it is said that they are not: the database is to know of no others."""
    drop("x.dcm")
    claimed = claim(find(), folders)

    def fail(_descriptor):
        raise OSError(errno.EIO, "made up")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="made up"):
            hash_claimed(claimed)
    assert hash_claimed(claimed) is not None


def test_without_a_thread_to_spare_nothing_has_arrived(claim_one, monkeypatch):
    """Bytes are written out by a thread; where there can be none now, the system is at fault, and the file waits."""

    def fail(_thread):
        message = "can't start new thread"
        raise RuntimeError(message)

    claimed = claim_one("x.dcm")
    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(BlockingIOError):
        hash_claimed(claimed)

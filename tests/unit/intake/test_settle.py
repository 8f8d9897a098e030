import fcntl
import os
import signal
import threading
import time

import pytest
from clock import Clock

from xray_batch.intake import SettleTracker, scan, settle
from xray_batch.intake.settle import Writers, writers_of


@pytest.fixture
def clock():
    """Give a clock that stands still."""
    return Clock()


#: What the tests take for a file whose format has not ended.
UNFINISHED = b"to be continued"

#: What they take for a file whose format has ended for certain.
WHOLE = b"the end"


def make_tracker(folders, clock, settle_seconds=2.0):
    """Return a tracker that waits a minute for unfinished files."""
    return SettleTracker(
        folders.inbox,
        settle_seconds,
        incomplete_seconds=60.0,
        ends_early=lambda descriptor: os.pread(descriptor, 100, 0) == UNFINISHED,
        has_ended=lambda descriptor: os.pread(descriptor, 100, 0) == WHOLE,
        clock=clock,
    )


@pytest.fixture
def look(folders, clock):
    """Wait some seconds, scan, and return the names of the complete files."""
    tracker = make_tracker(folders, clock)

    def wait_and_scan(seconds, renamed=()):
        clock.now += seconds
        return [file.name for file in tracker.complete(scan(folders.inbox).files, renamed)]

    wait_and_scan.tracker = tracker
    return wait_and_scan


def test_a_file_is_complete_when_unchanged_for_the_settle_time(drop, look):
    """Not before, and then at every look until it is claimed."""
    drop("x.dcm")
    assert [look(0), look(1.9), look(0.1), look(1)] == [[], [], ["x.dcm"], ["x.dcm"]]


def test_a_growing_file_waits_for_ever_and_is_complete_when_it_stops(drop, look):
    """Each change starts the time again; waiting is never final."""
    path = drop("x.dcm", b"")
    for _ in range(50):
        with path.open("ab") as file:
            file.write(b"1")
        assert look(1.9) == []
    assert look(2) == ["x.dcm"]


def test_same_size_but_written_again_starts_the_time_again(drop, look):
    """Even where the sender sets the old modification time."""
    path = drop("x.dcm", b"old")
    look(0)
    before = path.stat()
    path.write_bytes(b"new")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [look(2), look(2)] == [[], ["x.dcm"]]


def test_a_replaced_file_starts_the_time_again(folders, drop, look):
    """Another inode under the same name is another file."""
    drop("x.dcm")
    look(0)
    new = folders.home / "new"
    new.write_bytes(b"pixels")
    new.rename(folders.inbox / "x.dcm")
    assert [look(2), look(2)] == [[], ["x.dcm"]]


def test_a_vanished_file_is_forgotten(drop, look):
    """One that comes back under the name has not waited."""
    path = drop("x.dcm")
    look(0)
    kept = path.rename(path.with_name(".x"))
    assert look(1.5) == []
    kept.rename(path)
    assert [look(1.5), look(2)] == [[], ["x.dcm"]]


def test_an_empty_file_waits_ten_times_as_long(drop, look):
    """A writer may have just created it; if not, it is handed on and gets its answer."""
    drop("x.dcm", b"")
    assert [look(0), look(19.9), look(0.1)] == [[], [], ["x.dcm"]]


def test_a_file_open_for_writing_is_not_complete_however_old(drop, look):
    """A writer that pauses for an hour keeps its file; when it closes, nothing more is waited for."""
    path = drop("x.dcm")
    with path.open("ab"):
        look(0)
        assert [look(3600), look(3600)] == [[], []]
    assert look(0) == ["x.dcm"]


def test_a_writer_is_seen_after_its_file_was_renamed(drop, look):
    """Renaming from a temporary name does not mean that the writer is done."""
    path = drop("x.part")
    with path.open("ab"):
        path.rename(path.with_name("x.dcm"))
        look(0)
        assert look(100) == []
    assert look(0) == ["x.dcm"]


def test_a_reader_does_not_matter(drop, look):
    """Virus scanners and backups read what we may take."""
    with drop("x.dcm").open("rb"):
        look(0)
        assert look(2) == ["x.dcm"]


def test_without_leases_the_settle_time_doubles(drop, look, monkeypatch):
    """A file of another user, or a file system without leases: time is the only evidence."""
    monkeypatch.setattr(settle, "writers_of", lambda _descriptor: Writers.UNKNOWN)
    drop("x.dcm")
    assert [look(0), look(3.9), look(0.1)] == [[], [], ["x.dcm"]]


def test_on_a_network_file_system_a_file_waits_longer(folders, drop, look, clock, monkeypatch):
    """Its host may say for some seconds what was."""
    monkeypatch.setattr(settle, "is_network", lambda inbox: inbox == folders.inbox)
    tracker = make_tracker(folders, clock)
    drop("x.dcm")
    files = scan(folders.inbox).files
    found = []
    for seconds in (0, 9.9, 0.1):
        clock.now += seconds
        found.append([file.name for file in tracker.complete(files)])
    assert found == [[], [], ["x.dcm"]]


def test_a_file_whose_format_has_not_ended_waits_longer(drop, look):
    """A sender that closes it and goes on later is waited for; one that never does, not for ever."""
    drop("x.png", UNFINISHED)
    drop("y.png", UNFINISHED)
    assert [look(0), look(2), look(50)] == [[], [], []]
    with drop("x.png", UNFINISHED).open("ab") as file:
        file.write(b": the end")
    assert look(0) == []
    assert look(2) == ["x.png"]
    assert look(10) == ["y.png", "x.png"]


def test_a_service_started_anew_knows_from_the_file_how_long_it_has_waited(drop, look, monkeypatch):
    """An unfinished file that has not changed for long, by the kernel's word, does not wait once more."""
    drop("x.png", UNFINISHED)
    now = time.time()
    monkeypatch.setattr(settle.time, "time", lambda: now + 50)
    assert [look(0), look(2), look(8)] == [[], [], ["x.png"]]


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives a file to another user")
def test_a_jump_of_the_clock_ends_no_wait(drop, look, monkeypatch):
    """A file whose format has not ended is as old as it was, and a little older, whatever day it is now."""
    drop("x.dcm", UNFINISHED)
    look(0)
    now = time.time()
    monkeypatch.setattr(settle.time, "time", lambda: now + 86_400)
    assert [look(2), look(57), look(1)] == [[], [], ["x.dcm"]]


def test_a_lease_on_a_file_of_another_user_is_unknown(drop, tmp_path):
    """Without CAP_LEASE the kernel answers only the owner."""
    path = drop("x.dcm")
    os.chown(path, 65534, 65534)
    descriptor = os.open(path, os.O_RDONLY)
    os.seteuid(65533)  # takes the capabilities away
    try:
        assert writers_of(descriptor) is Writers.UNKNOWN
    finally:
        os.seteuid(0)
        os.close(descriptor)


def test_a_file_that_cannot_be_opened_is_counted_and_tried_again(drop, look, monkeypatch):
    """It is neither complete nor forgotten."""
    drop("x.dcm")
    look(0)

    def refuse(*_names):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(settle, "open_file", refuse)
        assert look(2) == []
        assert look.tracker.unreadable == 1
    assert look(0) == ["x.dcm"]
    assert look.tracker.unreadable == 0


def test_a_link_swapped_in_for_a_subfolder_is_not_followed(folders, drop, clock, tmp_path):
    """The scan saw a file in a folder; what now has the folder's name leads out of the inbox."""
    drop("study/x.dcm")
    files = scan(folders.inbox).files
    tracker = make_tracker(folders, clock, 0.0)
    (folders.inbox / "study").rename(tmp_path / "outside")
    (folders.inbox / "study").symlink_to(tmp_path / "outside")
    assert list(tracker.complete(files)) == []


def test_complete_files_come_in_the_order_of_waiting(drop, look):
    """The one that waited longest comes first."""
    for name in ("b", "c", "a"):
        drop(name)
        look(0.1)
    assert look(5) == ["b", "c", "a"]


def test_files_that_are_not_wanted_are_not_opened(folders, drop, clock, monkeypatch):
    """What the caller has no room for is passed over without a look into it, and is not given."""
    opened = []
    real = settle.open_file
    monkeypatch.setattr(settle, "open_file", lambda root, *names: opened.append(names[-1]) or real(root, *names))
    for number in range(10):
        drop(f"{number}.dcm")
    tracker = make_tracker(folders, clock, 0.0)
    given = tracker.complete(scan(folders.inbox).files, wanted=lambda file: file.name in ("3.dcm", "7.dcm"))
    assert sorted(file.name for file in given) == sorted(opened) == ["3.dcm", "7.dcm"]


def test_files_are_opened_only_as_they_are_taken(folders, drop, clock, monkeypatch):
    """Of a huge drop no more files are opened than the caller takes."""
    opened = []
    real = settle.open_file
    monkeypatch.setattr(settle, "open_file", lambda root, *names: opened.append(names[-1]) or real(root, *names))
    for number in range(10):
        drop(f"{number}.dcm")
    complete = make_tracker(folders, clock, 0.0).complete(scan(folders.inbox).files)
    assert opened == []
    assert [next(complete).name, next(complete).name] == opened
    assert len(opened) == 2


def test_a_writer_arriving_during_the_lease_is_held_and_does_not_kill_us(drop, monkeypatch):
    """The kernel signals the holder of a lease; by default that signal ends the process."""
    path = drop("x.dcm")
    opened = threading.Event()

    def write():
        with path.open("ab"):
            opened.set()

    writer = threading.Thread(target=write)
    take = fcntl.fcntl

    def take_and_meet_a_writer(descriptor, command, argument):
        result = take(descriptor, command, argument)
        if (command, argument) == (fcntl.F_SETLEASE, fcntl.F_RDLCK):
            writer.start()
            time.sleep(0.1)
            assert not opened.is_set()
        return result

    child = os.fork()
    if child == 0:  # so that a failure does not end the test run
        monkeypatch.setattr(fcntl, "fcntl", take_and_meet_a_writer)
        with path.open("rb") as file:
            writers_of(file.fileno())
        os._exit(0 if opened.wait(5) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, signal.Signals(status & 0x7F) if status & 0x7F else status


def test_urgent_files_come_first(drop, look):
    """However long others have waited; only the folder at the top counts."""
    for name in ("a.dcm", "ward/urgent/b.dcm", "urgent.dcm"):
        drop(name)
    look(1)
    drop("urgent/deep/z.dcm")
    look(0)
    assert look(2)[0] == "urgent/deep/z.dcm"


class TestAfterARename:
    """A file that is said to have come by a rename."""

    def test_it_is_complete_at_once(self, drop, look):
        """Where nobody writes and its format has ended; until it is claimed, whether or not it is said again."""
        drop("a/x.png", WHOLE)
        assert [look(0, {"a/x.png"}), look(0)] == [["a/x.png"], ["a/x.png"]]

    def test_the_word_may_come_later_than_the_file(self, drop, look):
        """The scan may be faster than the event."""
        drop("x.png", WHOLE)
        assert [look(0), look(0.1, {"x.png"})] == [[], ["x.png"]]

    @pytest.mark.parametrize("content", [b"pixels", UNFINISHED, b""])
    def test_it_waits_unless_its_format_has_ended_for_certain(self, drop, look, content):
        """What is opaque waits as it always did; an empty file is nothing that has ended."""
        drop("x.png", content)
        assert [look(0, {"x.png"}), look(1.9)] == [[], []]

    def test_it_waits_while_its_writer_has_it_open(self, drop, look):
        """And is complete when he closes it without another byte."""
        path = drop("x.part", WHOLE)
        with path.open("ab"):
            path.rename(path.with_name("x.png"))
            assert [look(0, {"x.png"}), look(100)] == [[], []]
        assert look(0) == ["x.png"]

    def test_a_writer_who_goes_on_starts_the_time_again(self, drop, look):
        """The rename was not the end."""
        path = drop("x.png", b"")
        with path.open("r+b") as file:
            look(0, {"x.png"})
            file.write(WHOLE)
        assert [look(0), look(1.9), look(0.1)] == [[], [], ["x.png"]]

    def test_times_set_after_it_start_the_time_again(self, drop, look, monkeypatch):
        """Whoever sets them may set a mode next."""
        path = drop("x.png", WHOLE)
        with path.open("ab"):  # so that it is not taken at once
            look(0, {"x.png"})
            os.utime(path, (1, 1))
        assert [look(0), look(1.9), look(0.1)] == [[], [], ["x.png"]]

    def test_it_waits_where_the_kernel_does_not_tell_who_writes(self, drop, look, monkeypatch):
        """A file of another user: as long as any such file."""
        monkeypatch.setattr(settle, "writers_of", lambda _descriptor: Writers.UNKNOWN)
        drop("x.png", WHOLE)
        assert [look(0, {"x.png"}), look(3.9), look(0.1)] == [[], [], ["x.png"]]

    def test_it_waits_on_a_network_file_system(self, folders, drop, clock, monkeypatch):
        """Its writers are on other hosts."""
        monkeypatch.setattr(settle, "is_network", lambda _inbox: True)
        tracker = make_tracker(folders, clock)
        drop("x.png", WHOLE)
        assert list(tracker.complete(scan(folders.inbox).files, {"x.png"})) == []

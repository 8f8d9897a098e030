import os
import resource
import shutil
import threading

import pytest

from xray_batch.intake import InboxWatcher, WatchMode
from xray_batch.intake import watcher as watcher_module


@pytest.fixture
def wake():
    """Give the event that a service would wait on."""
    return threading.Event()


@pytest.fixture
def watcher(folders, wake):
    """Watch the inbox, with the first wake-up out of the way."""
    started = InboxWatcher(folders.inbox, wake)
    started.start()
    assert started.mode is WatchMode.INOTIFY
    wake.clear()
    yield started
    started.stop()


def test_starting_wakes_once(folders, wake):
    """What was dropped before the watch was set raised no event."""
    watcher = InboxWatcher(folders.inbox, wake)
    watcher.start()
    assert wake.is_set()
    watcher.stop()


def _write(path, _outside):
    path.write_bytes(b"pixels")


def _rename_in(path, outside):
    outside.write_bytes(b"pixels")
    outside.rename(path)


def _link_in(path, outside):
    outside.write_bytes(b"pixels")
    os.link(outside, path)


def _move_folder_in(path, outside):
    (outside / "a").mkdir(parents=True)
    (outside / "a" / "x.dcm").write_bytes(b"pixels")
    shutil.move(outside, path)


def _copy_tree_in(path, outside):
    (outside / "a").mkdir(parents=True)
    (outside / "a" / "x.dcm").write_bytes(b"pixels")
    shutil.copytree(outside, path)


@pytest.mark.parametrize("send", [_write, _rename_in, _link_in, _move_folder_in, _copy_tree_in])
@pytest.mark.parametrize("name", [b"x.dcm", b"\xff\xfe not utf-8", b"new\nline"])
def test_any_way_of_dropping_wakes(folders, watcher, wake, tmp_path, send, name):
    """Whatever the name; and the watch lives on."""
    send(folders.inbox / os.fsdecode(name), tmp_path / "outside")
    assert wake.wait(10)
    assert watcher.mode is WatchMode.INOTIFY


@pytest.mark.parametrize("name", ["x.dcm", "x\udcff\n.dcm", "ward/x.dcm"])
@pytest.mark.parametrize("source", ["outside", "inbox/.x.dcm.a8Xk2P", "inbox/x.dcm.part", "inbox/.stage/x.dcm"])
def test_a_rename_from_where_no_scan_looks_is_told(folders, watcher, wake, name, source):
    """From outside or from a name that is ignored; once."""
    (folders.inbox / "ward").mkdir()
    temporary = folders.home / source
    temporary.parent.mkdir(exist_ok=True)
    temporary.write_bytes(b"pixels")
    threading.Event().wait(0.3)
    wake.clear()
    temporary.rename(folders.inbox / name)
    assert wake.wait(10)
    assert watcher.take_renamed() == {name}
    assert watcher.take_renamed() == set()


def _rename_within(path, _outside):
    path.with_name("first.dcm").write_bytes(b"pixels")
    path.with_name("first.dcm").rename(path)


@pytest.mark.parametrize("send", [_write, _link_in, _copy_tree_in, _move_folder_in, _rename_within])
def test_any_other_way_is_no_rename(folders, watcher, wake, tmp_path, send):
    """Files written in place, linked, in folders, or renamed from one name that scans see to another, wait."""
    send(folders.inbox / "x", tmp_path / "outside")
    assert wake.wait(10)
    threading.Event().wait(0.5)
    assert watcher.take_renamed() == set()


def test_a_file_behind_one_that_left_is_heard_of_soon(folders, watcher, wake, drop, tmp_path):
    """Watchdog waits to see whether what left comes again, and lets everything behind it wait too."""
    (tmp_path / "next").write_bytes(b"pixels")
    path = drop("x.dcm")
    threading.Event().wait(0.3)
    wake.clear()
    path.rename(folders.spool / "x.dcm")
    (tmp_path / "next").rename(folders.inbox / "next.dcm")
    assert wake.wait(10)
    assert watcher.take_renamed() == {"next.dcm"}


def test_a_drop_into_a_new_subfolder_wakes(folders, watcher, wake):
    """Subfolders are watched as they come."""
    (folders.inbox / "a").mkdir()
    assert wake.wait(10)
    wake.clear()
    threading.Event().wait(0.3)
    (folders.inbox / "a" / "x.dcm").write_bytes(b"pixels")
    assert wake.wait(10)


def test_looking_and_taking_do_not_wake(folders, watcher, wake, drop, find):
    """Or a file that cannot be taken yet would keep the service busy without pause."""
    path = drop("x.dcm")
    assert wake.wait(10)
    threading.Event().wait(0.3)
    wake.clear()
    path.read_bytes()
    find()
    path.rename(folders.spool / "x.dcm")
    assert not wake.wait(0.5)


def test_without_free_descriptors_it_polls_and_recovers(folders, wake):
    """EMFILE, as with too many inotify instances: no exception, and the watch comes when it can."""
    watcher = InboxWatcher(folders.inbox, wake)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        watcher.start()
        assert watcher.mode is WatchMode.POLLING
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert watcher.mode is WatchMode.INOTIFY
    watcher.stop()


def test_on_a_network_file_system_it_polls(folders, wake, monkeypatch):
    """The kernel does not tell what other hosts write there: a watch would only look like one."""
    monkeypatch.setattr(watcher_module, "is_network", lambda inbox: inbox == folders.inbox)
    watcher = InboxWatcher(folders.inbox, wake)
    watcher.start()
    assert watcher.mode is WatchMode.POLLING
    watcher.stop()


def test_without_free_watches_it_polls(folders, wake, monkeypatch):
    """ENOSPC: the limit of a whole machine, so here it is the call that says so."""
    from watchdog.observers.inotify import InotifyObserver

    def refuse(_self):
        raise OSError(28, "inotify watch limit reached")

    watcher = InboxWatcher(folders.inbox, wake)
    with monkeypatch.context() as patch:
        patch.setattr(InotifyObserver, "on_thread_start", refuse)
        threads = threading.active_count()
        watcher.start()
        assert watcher.mode is WatchMode.POLLING
        assert threading.active_count() == threads
    assert watcher.mode is WatchMode.INOTIFY
    assert watcher.rearmed == 0  # none had died
    watcher.stop()


def test_a_dead_emitter_is_replaced(folders, watcher, wake, drop):
    """A thread that ended quietly is noticed at the next look at the mode, and files wake again."""
    (emitter,) = watcher._observer.emitters
    emitter.stop()
    emitter.join()
    assert watcher.mode is WatchMode.INOTIFY
    assert watcher.rearmed == 1
    assert wake.is_set()
    wake.clear()
    drop("x.dcm")
    assert wake.wait(10)


def test_a_dead_observer_is_replaced(watcher, wake):
    """Likewise for the thread that calls the handlers."""
    watcher._observer.stop()
    watcher._observer.join()
    assert watcher.mode is WatchMode.INOTIFY
    assert wake.is_set()


def test_a_dead_reader_is_replaced(watcher, wake, drop):
    """Likewise for the thread that reads from the kernel, where watchdog has one."""
    reader = getattr(watcher._observer, "_inotify_fd", None)
    if not isinstance(reader, threading.Thread):
        pytest.skip("watchdog before 7")
    reader.stop()
    reader.join()
    assert watcher.mode is WatchMode.INOTIFY
    wake.clear()
    drop("x.dcm")
    assert wake.wait(10)


def test_folders_filled_while_they_come_do_not_end_the_watch(folders, watcher, wake, tmp_path):
    """The race of watchdog with `mkdir -p`, many times over."""
    for number in range(50):
        (folders.inbox / str(number) / "a" / "b" / "c").mkdir(parents=True)
    threading.Event().wait(0.3)
    assert watcher.mode is WatchMode.INOTIFY


def test_a_replaced_inbox_is_watched_anew(folders, watcher, wake, drop):
    """A watch follows the folder, not its name; while there is none the mode is polling."""
    folders.inbox.rename(folders.home / "old")
    assert watcher.mode is WatchMode.POLLING
    folders.inbox.mkdir()
    assert watcher.mode is WatchMode.INOTIFY
    wake.clear()
    drop("x.dcm")
    assert wake.wait(10)


def test_a_stopped_watcher_stays_stopped(folders, wake):
    """Looking at the mode does not start it, before or after."""
    watcher = InboxWatcher(folders.inbox, wake)
    assert watcher.mode is WatchMode.POLLING
    watcher.start()
    watcher.stop()
    assert watcher.mode is WatchMode.POLLING
    watcher.stop()


def test_the_canary_is_heard_and_wakes_nobody(folders, watcher, wake):
    """An event comes through every so often, whether or not files do; the inbox is left as it was."""
    watcher._waker.heard_at = 0.0
    watcher.send_canary()
    for _ in range(500):
        if watcher._waker.heard_at:
            break
        threading.Event().wait(0.02)
    assert watcher.canary_age < 10
    assert not wake.is_set()
    assert list(folders.inbox.iterdir()) == []


def test_a_watch_that_hears_nothing_is_set_anew(watcher, wake, monkeypatch, drop):
    """Threads that live but hear nothing are found out by the canary, and files wake again."""
    observer = watcher._observer
    monkeypatch.setattr(watcher_module, "DEAF_SECONDS", 0.2)
    monkeypatch.setattr(watcher._waker, "dispatch", lambda _event: None)
    watcher.send_canary()
    threading.Event().wait(0.3)
    assert watcher.mode is WatchMode.INOTIFY
    assert watcher._observer is not observer
    assert watcher.rearmed == 1
    wake.clear()
    drop("x.dcm")
    assert wake.wait(10)


def test_an_inbox_that_takes_no_canary_is_watched_all_the_same(folders, watcher, monkeypatch):
    """Full, or not ours to write: nothing is concluded from that."""

    def refuse(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watcher_module.Path, "touch", refuse)
    monkeypatch.setattr(watcher_module, "DEAF_SECONDS", 0.0)
    watcher.send_canary()
    assert watcher.mode is WatchMode.INOTIFY
    assert watcher.rearmed == 0

"""The thread that touches the folders for the loop: what it returns, and what happens while it does not."""

import threading
from unittest.mock import Mock

import pytest

from xray_batch.errors import FoldersHangError
from xray_batch.service import disk_thread as disk_thread_module
from xray_batch.service.disk_thread import DiskThread


@pytest.fixture
def answering():
    """Give an event that the share of a test waits for."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(disk_thread_module, "_LONG_SECONDS", 0.02)
    monkeypatch.setattr(disk_thread_module, "_BEAT_SECONDS", 0.01)


def make(beat=None, hangs=None, stop_at=lambda: float("inf")):
    """Make a thread whose loop does nothing of its own."""
    return DiskThread(beat=beat or Mock(), hangs=hangs or Mock(), stop_at=stop_at, hang_seconds=0.02)


def test_what_a_call_returns_and_raises():
    """As if the caller had made it himself, in another thread than his own."""
    disk = make()
    assert disk.do(divmod, 7, 2) == (3, 1)
    assert disk.do(threading.get_ident) != threading.get_ident()
    with pytest.raises(FileNotFoundError):
        disk.do(open, "/nowhere/at/all")
    with pytest.raises(TimeoutError, match="of the share itself"):
        disk.do(Mock(side_effect=TimeoutError("of the share itself")))
    assert not disk.hung_within(3600)
    disk.stop()


def test_a_call_that_hangs_and_returns(answering):
    """The loop beats on, says so once, and gets its answer."""
    beats, told = 0, Mock()

    def beat():
        nonlocal beats
        beats += 1
        if beats == 10:
            answering.set()

    disk = make(beat, told)
    assert disk.do(answering.wait)
    assert beats >= 10
    told.assert_called_once_with()
    assert disk.hung_within(3600)
    assert not disk.hung_within(0)
    disk.stop()


def test_nobody_waits_after_the_end(answering):
    """Told to stop, the loop leaves a call that hangs, and makes no other: two at once were never meant."""
    disk = make(stop_at=lambda: 0.0)
    with pytest.raises(FoldersHangError):
        disk.do(answering.wait)
    other = Mock()
    with pytest.raises(FoldersHangError):
        disk.do(other)
    answering.set()
    other.assert_not_called()
    disk.stop()

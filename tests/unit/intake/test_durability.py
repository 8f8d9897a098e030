"""What a power cut would leave: names as their folder was last written out, bytes as their file was."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from xray_batch.intake import claim, claimed_file, file_away, hash_claimed
from xray_batch.intake.filing import REASON_SUFFIX
from xray_batch.records import Disposition, Outcome, Unfiled

ENDS = {
    "processed": (Disposition.WORK, Outcome.NORMAL, None),
    "rejected": (Disposition.WORK, Outcome.NOT_ANALYSED, "a reason"),
    "duplicates": (Disposition.DUPLICATE, None, None),
}


class _Disk:
    """A folder that is on the disk as it is, but for the bytes of its files; from then on what is synced."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names = {path.stat().st_ino: _names_in(path) for path in (root, *root.rglob("*")) if path.is_dir()}
        self._bytes: dict[int, bytes] = {}
        self.states: list[dict[str, bytes | None]] = []  #: after each sync

    def synced(self, descriptor: int) -> None:
        time.sleep(0.005)  # a disk is slow: nobody may go on before this is over
        path, number = Path(f"/proc/self/fd/{descriptor}").readlink(), os.fstat(descriptor).st_ino
        if path.is_dir():
            self._names[number] = _names_in(path)
        else:
            self._bytes[number] = path.read_bytes()
        self.states.append(self.files())

    def files(self) -> dict[str, bytes | None]:
        """Names, relative to the folder, of all files that are left, with their bytes; None: nobody knows."""
        files: dict[str, bytes | None] = {}
        pending = [(Path(), self._root.stat().st_ino)]
        while pending:
            folder, number = pending.pop()
            for name, (child, is_folder) in self._names.get(number, {}).items():
                if is_folder:
                    pending.append((folder / name, child))
                else:
                    files[os.fspath(folder / name)] = self._bytes.get(child)
        return files


def _names_in(folder: Path) -> dict[str, tuple[int, bool]]:
    return {path.name: (path.lstat().st_ino, path.is_dir()) for path in folder.iterdir()}


@pytest.fixture
def watch_disk(folders, monkeypatch):
    """Return a function that begins to watch what is written out of the home folder."""
    real = os.fsync

    def begin():
        watched = _Disk(folders.home)

        def fsync(descriptor):
            real(descriptor)
            watched.synced(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        return watched

    return begin


def _ended(arrival, end):
    disposition, outcome, reason = ENDS[end]
    return Unfiled(
        arrival_id=arrival.arrival_id,
        source_name=arrival.source_name,
        content_sha256=arrival.content_sha256,
        received_at=arrival.received_at,
        disposition=disposition,
        outcome=outcome,
        reason_code=reason,
        reason=reason,
    )


def _relative(folders, path):
    return os.fspath(path.relative_to(folders.home))


def _reason_of(folders, path):
    return _relative(folders, path) + REASON_SUFFIX


def test_a_claimed_file_is_in_the_spool(folders, drop, find, watch_disk):
    """It has one name, and had one at every moment; its bytes are on the disk before the database is told of them."""
    drop("a/x.dcm")
    disk = watch_disk()
    claimed = claim(find(), folders)
    name = _relative(folders, claimed.path)
    assert disk.files() == {name: None}
    assert all(disk.states)
    hash_claimed(claimed)
    assert disk.files() == {name: b"pixels"}


@pytest.mark.parametrize("end", list(ENDS))
def test_a_filed_file_is_in_its_place(folders, arrive, watch_disk, end):
    """Before the database is told of it, with its reason, which was there first; in the spool it is no more."""
    arrival = arrive("a/x.dcm")
    disk = watch_disk()
    path = file_away(folders, _ended(arrival, end))
    reasons = {_reason_of(folders, path): Path(f"{path}{REASON_SUFFIX}").read_bytes()} if end == "rejected" else {}
    assert disk.files() == {_relative(folders, path): None} | reasons
    assert all(any(name.endswith("x.dcm") for name in state) for state in disk.states)
    assert not any(_relative(folders, path) in state and reasons.keys() - state.keys() for state in disk.states)


@pytest.mark.parametrize("ends", [("rejected", "processed"), ("processed", "rejected"), ("rejected", "rejected")])
def test_a_file_with_another_answer_is_in_its_new_place(folders, arrive, watch_disk, ends):
    """And its reason is that of the last answer, or gone."""
    arrival = arrive("a/x.dcm")
    first = file_away(folders, _ended(arrival, ends[0]))
    disk = watch_disk()
    again = replace(_ended(arrival, ends[1]), filed_path=_relative(folders, first), reason_code="another")
    path = file_away(folders, again)
    files = disk.files()
    assert {name for name in files if name.endswith("x.dcm")} == {_relative(folders, path)}
    reasons = {name: content for name, content in files.items() if name.endswith(REASON_SUFFIX)}
    assert reasons.keys() == ({_reason_of(folders, path)} if ends[1] == "rejected" else set())
    assert all(b"another" in content for content in reasons.values())


def test_what_an_attempt_moved_before_it_died_is_in_its_place(folders, arrive, watch_disk):
    """The next one finds the file there, and does not know whether that was written out."""
    arrival = arrive("x.dcm")
    claimed = claimed_file(folders, arrival.arrival_id)
    disk = watch_disk()
    path = folders.rejected / "x.dcm"
    claimed.rename(path)
    assert file_away(folders, _ended(arrival, "rejected")) == path
    assert disk.files()["rejected/x.dcm"] is None


def test_the_old_name_goes_after_the_new_one_is_there(folders, arrive, watch_disk):
    """The process died between `link` and `unlink`, where the file system has no rename that never replaces."""
    arrival = arrive("x.dcm")
    disk = watch_disk()
    os.link(claimed_file(folders, arrival.arrival_id), folders.duplicates / "x.dcm")
    file_away(folders, _ended(arrival, "duplicates"))
    assert "duplicates/x.dcm" in disk.files()

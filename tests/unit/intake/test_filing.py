import datetime as dt
import errno
import json
import os
import stat
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from xray_batch.errors import LostFileError, ReasonCode
from xray_batch.intake import (
    claimed_file,
    claims_in_spool,
    disk,
    file_away,
    find_original,
    printable,
    remove_empty_subfolders,
)
from xray_batch.records import Disposition, Outcome, Unfiled

#: How an arrival can end: with a result, without one, or as bytes that were here before.
ENDS = {
    "processed": {"disposition": Disposition.WORK, "outcome": Outcome.NORMAL},
    "rejected": {
        "disposition": Disposition.WORK,
        "outcome": Outcome.NOT_ANALYSED,
        "reason_code": ReasonCode.LATERAL_VIEW.value,
        "reason": "View Position is LL; PA or AP is accepted.",
    },
    "duplicates": {"disposition": Disposition.DUPLICATE},
}


def _ended(arrival, end):
    """Make what the database returns for an arrival that can be filed away."""
    return Unfiled(
        arrival_id=arrival.arrival_id,
        source_name=arrival.source_name,
        content_sha256=arrival.content_sha256,
        received_at=arrival.received_at,
        **({"outcome": None, "reason_code": None, "reason": None} | ENDS[end]),
    )


def _day(folders, arrival):
    return folders.processed / arrival.received_at.strftime("%Y/%m/%d")


@pytest.mark.parametrize("name", ["x.dcm", "ward/study/x.dcm", b"\xff/\xfe.dcm", b"new\nline", b"n" * 255])
def test_a_processed_file_goes_below_the_day_it_arrived(folders, arrive, files_in, name):
    """With its path and bytes; the spool and the inbox are empty."""
    arrival = arrive(name)
    path = file_away(folders, _ended(arrival, "processed"))
    assert path == _day(folders, arrival) / os.fsdecode(name)
    assert files_in(folders.home) == {os.fspath(path.relative_to(folders.home)): b"pixels"}
    assert list(folders.spool.iterdir()) == []


def test_the_day_is_counted_in_utc(folders, arrive):
    """A database may return the time in another zone, and the place must not change."""
    arrival = replace(arrive("x.dcm"), received_at=dt.datetime(2026, 3, 31, 23, 30, tzinfo=dt.UTC))
    zone = dt.timezone(dt.timedelta(hours=2))
    local = replace(arrival, received_at=arrival.received_at.astimezone(zone))
    assert file_away(folders, _ended(local, "processed")) == folders.processed / "2026/03/31/x.dcm"
    assert file_away(folders, _ended(arrival, "processed")) == folders.processed / "2026/03/31/x.dcm"


def test_a_duplicate_goes_to_duplicates(folders, arrive):
    """Re-sent bytes are kept too."""
    path = file_away(folders, _ended(arrive("a/x.dcm"), "duplicates"))
    assert path == folders.duplicates / "a" / "x.dcm"


def test_a_rejected_file_has_its_reason_beside_it(folders, arrive, files_in):
    """For people and scripts: code, sentence and identity."""
    arrival = arrive(b"a/\xffx.dcm")
    path = file_away(folders, _ended(arrival, "rejected"))
    assert path == folders.rejected / os.fsdecode(b"a/\xffx.dcm")
    assert json.loads(path.with_name(path.name + ".reason.json").read_text()) == {
        "reason_code": "lateral_view",
        "reason": "View Position is LL; PA or AP is accepted.",
        "source_name": r"a/\xffx.dcm",
        "content_sha256": arrival.content_sha256,
        "received_at": arrival.received_at.isoformat(),
        "arrival_id": str(arrival.arrival_id),
    }
    assert len(files_in(folders.home)) == 2


def test_modes_are_the_services(folders, arrive):
    """The group may look, nobody else."""
    path = file_away(folders, _ended(arrive("a/x.dcm"), "rejected"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(path.with_name("x.dcm.reason.json").stat().st_mode) == 0o640
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


@pytest.mark.parametrize("end", list(ENDS))
def test_nothing_is_ever_replaced(folders, arrive, end):
    """A taken name gets the arrival id in front, and each rejected file has its own reason."""
    names = []
    for content in (b"1", b"2", b"3"):
        arrival = arrive("a/x.dcm", content)
        path = file_away(folders, _ended(arrival, end))
        names.append(path.name.replace(str(arrival.arrival_id), "id"))
        if end == "rejected":
            assert str(arrival.arrival_id) in path.with_name(path.name + ".reason.json").read_text()
    assert names == ["x.dcm", "id-x.dcm", "id-x.dcm"]
    assert sorted(found.read_bytes() for found in path.parent.glob("*x.dcm")) == [b"1", b"2", b"3"]


def test_a_name_taken_at_the_last_moment(folders, arrive, files_in, monkeypatch):
    """The next name is taken, and the reason goes with the file: none is left without one."""
    arrival = arrive("x.dcm")
    rename = disk._renameat2

    def take_first(source, name, folder):
        if name == os.fspath(folders.rejected / "x.dcm"):
            (folders.rejected / "x.dcm").write_bytes(b"another")
        rename(source, name, folder)

    monkeypatch.setattr(disk, "_renameat2", take_first)
    path = file_away(folders, _ended(arrival, "rejected"))
    assert files_in(folders.rejected).keys() == {"x.dcm", path.name, f"{path.name}.reason.json"}
    assert path.read_bytes() == b"pixels"


def test_a_file_of_another_user_is_filed_as_it_is(folders, arrive, monkeypatch):
    """The service may move it, but not change its mode."""
    arrival = arrive("x.dcm")

    def refuse(_path, _mode):
        raise PermissionError(errno.EPERM, "made up")

    monkeypatch.setattr(Path, "chmod", refuse)
    assert file_away(folders, _ended(arrival, "processed")).read_bytes() == b"pixels"


def test_a_file_named_like_a_reason_is_not_replaced_by_one(folders, arrive):
    """Senders may use our suffix, before or after."""
    taken = file_away(folders, _ended(arrive("x.dcm.reason.json", b"theirs"), "rejected"))
    path = file_away(folders, _ended(arrive("x.dcm"), "rejected"))
    assert taken.read_bytes() == b"theirs"
    assert path.name.endswith("-x.dcm")
    later = file_away(folders, _ended(arrive(f"{path.name}.reason.json", b"later"), "rejected"))
    assert later.read_bytes() == b"later"
    assert b"lateral_view" in path.with_name(path.name + ".reason.json").read_bytes()


def test_a_file_and_a_folder_of_one_name_can_both_be_filed(folders, arrive):
    """Whichever came first."""

    def send(name, content):
        path = file_away(folders, _ended(arrive(name, content), "duplicates"))
        remove_empty_subfolders(folders.inbox, -10)
        return path

    first, below = send("a", b"1"), send("a/x.dcm", b"2")
    send("b/x.dcm", b"3")
    last = send("b", b"4")
    assert (first.read_bytes(), below.read_bytes(), last.read_bytes()) == (b"1", b"2", b"4")
    assert below.parent == last.parent == folders.duplicates


def test_the_longest_name_still_gets_its_reason(folders, arrive):
    """The front of the name gives way to the suffix."""
    arrival = arrive(b"n" * 251 + b".dcm")
    path = file_away(folders, _ended(arrival, "rejected"))
    assert path.name.startswith(f"{arrival.arrival_id}-nnn")
    assert path.name.endswith(".dcm")
    assert path.with_name(path.name + ".reason.json").exists()
    assert file_away(folders, _ended(arrival, "rejected")) == path


def test_a_path_too_long_for_the_arrival_id_is_cut_to_the_name(folders, arrive):
    """A path that just fits the spool fits its place, but not with 37 bytes more."""
    room = os.pathconf("/", "PC_PATH_MAX") - 1 - len(f"{os.fspath(folders.spool)}/{uuid.uuid4()}/x.dcm")
    depth, rest = divmod(room - 100, 201)
    name = "/".join(["d" * 200] * depth + ["d" * (rest + 99), "x.dcm"])
    day = folders.processed / "2026" / "03" / "31"
    for content, expected in ((b"1", day / name), (b"2", None)):
        arrival = replace(arrive(name, content), received_at=dt.datetime(2026, 3, 31, tzinfo=dt.UTC))
        path = file_away(folders, _ended(arrival, "processed"))
        assert path == (expected or day / f"{arrival.arrival_id}-x.dcm")
        assert path.read_bytes() == content
        assert file_away(folders, _ended(arrival, "processed")) == path


@pytest.mark.parametrize("name", ["a/x.dcm", b"\xff/\\x41\xfe.dcm"])
@pytest.mark.parametrize("end", list(ENDS))
def test_filing_again_finds_the_file_where_it_is(folders, arrive, files_in, end, name):
    """The process died before the database knew, and so for a name that was taken."""
    file_away(folders, _ended(arrive(name, b"another"), end))
    arrival = arrive(name)
    path = file_away(folders, _ended(arrival, end))
    before = files_in(folders.home)
    assert file_away(folders, _ended(arrival, end)) == path
    assert files_in(folders.home) == before


def test_both_names_of_one_file_become_one(folders, arrive, files_in):
    """The process died between link and unlink."""
    arrival = arrive("x.dcm")
    target = _day(folders, arrival) / "x.dcm"
    target.parent.mkdir(parents=True)
    os.link(claimed_file(folders, arrival.arrival_id), target)
    assert file_away(folders, _ended(arrival, "processed")) == target
    assert files_in(folders.home) == {os.fspath(target.relative_to(folders.home)): b"pixels"}


def test_without_renameat2_link_and_unlink_do_it(folders, arrive, files_in, monkeypatch):
    """NFS has no such flag; nothing is replaced there either."""

    def refuse(*_arguments):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(disk, "_renameat2", refuse)
    paths = [file_away(folders, _ended(arrive("x.dcm", content), "rejected")) for content in (b"1", b"2")]
    assert [path.read_bytes() for path in paths] == [b"1", b"2"]
    assert len(files_in(folders.home)) == 4


def test_without_renameat2_in_the_c_library_the_call_is_not_implemented(monkeypatch, tmp_path):
    """An old C library is like a file system without the flag."""
    monkeypatch.setattr(disk, "_libc_renameat2", lambda: disk._not_implemented)
    (tmp_path / "a").write_bytes(b"a")
    disk.move(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"a"


def test_a_file_that_is_nowhere_raises_the_alarm(folders, arrive):
    """Neither in the spool nor in its place: somebody took it."""
    arrival = arrive("x.dcm")
    claimed_file(folders, arrival.arrival_id).unlink()
    with pytest.raises(LostFileError, match=str(arrival.arrival_id)):
        file_away(folders, _ended(arrival, "processed"))


def test_a_changed_answer_does_not_hide_where_the_file_is(folders, arrive):
    """A newer model answered between the move and the commit that would have recorded it."""
    arrival = arrive("x.dcm")
    path = file_away(folders, _ended(arrival, "rejected"))
    assert file_away(folders, _ended(arrival, "processed")) == path


def test_another_file_in_its_place_does_not_hide_a_loss(folders, arrive):
    """The bytes must be the arrival's, not only the name."""
    arrival = arrive("x.dcm")
    claimed_file(folders, arrival.arrival_id).unlink()
    target = _day(folders, arrival) / "x.dcm"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"PIXELS")
    with pytest.raises(LostFileError):
        file_away(folders, _ended(arrival, "processed"))


def test_a_filed_arrival_is_no_claim_any_more(folders, arrive):
    """What is finished is not found again at start-up."""
    file_away(folders, _ended(arrive("a/x.dcm"), "processed"))
    assert list(claims_in_spool(folders)) == []


def test_a_folder_in_the_place_of_a_reason(folders, arrive):
    """It is no reason: the file gets another name, with its own."""
    (folders.rejected / "x.dcm.reason.json").mkdir()
    path = file_away(folders, _ended(arrive("x.dcm"), "rejected"))
    assert path.with_name(f"{path.name}.reason.json").is_file()


@pytest.mark.parametrize("recorded", [True, False])
def test_a_folder_or_link_in_the_place_of_an_original(folders, arrive, recorded):
    """Somebody took the file; what is there now is not it."""
    arrival = arrive("x.dcm")
    ended = _ended(arrival, "processed")
    path = file_away(folders, ended)
    original = _filed_before(folders, ended, path) if recorded else ended
    path.rename(folders.home / "elsewhere")
    path.symlink_to(folders.home / "elsewhere")
    assert find_original(folders, original) is None
    path.unlink()
    path.mkdir()
    assert find_original(folders, original) is None


def test_of_two_files_with_the_same_bytes_each_is_found(folders, arrive):
    """By the arrival id in front of the name, while the database does not know where they are."""
    first, again = (_ended(arrive("x.dcm"), "processed") for _ in range(2))
    paths = [file_away(folders, ended) for ended in (first, again)]
    assert [find_original(folders, ended) for ended in (first, again)] == paths


class TestAfterAnotherAnswer:
    """A file that was filed before, and its content answered once more."""

    @pytest.mark.parametrize("name", ["ward/x.dcm", b"\xff/\\x41\xfe.dcm", b"n" * 251 + b".dcm"])
    @pytest.mark.parametrize("ends", [("rejected", "processed"), ("processed", "rejected")])
    def test_it_is_moved_where_the_answer_sends_it(self, folders, arrive, files_in, name, ends):
        """With its path and bytes; a reason is there where it is rejected, and only there."""
        arrival = arrive(name)
        first = file_away(folders, _ended(arrival, ends[0]))
        path = file_away(folders, _filed_before(folders, _ended(arrival, ends[1]), first))
        fresh = arrive(b"another/" + os.fsencode(path.name), b"fresh")
        expected = file_away(folders, _ended(fresh, ends[1])).parent.parent
        assert path.is_relative_to(expected)
        assert path.parent.name == first.parent.name or b"n" in os.fsencode(name)
        assert path.read_bytes() == b"pixels"
        reasons = [
            found for found in files_in(folders.home) if found.endswith(".reason.json") and "another" not in found
        ]
        assert reasons == (
            [] if ends[1] == "processed" else [f"{os.fspath(path.relative_to(folders.home))}.reason.json"]
        )
        assert not first.exists()

    @pytest.mark.parametrize("end", list(ENDS))
    def test_it_stays_where_it_is_right(self, folders, arrive, files_in, end):
        """The same kind of answer moves nothing, whatever name it was filed under."""
        file_away(folders, _ended(arrive("x.dcm", b"another"), end))
        arrival = arrive("x.dcm")
        path = file_away(folders, _ended(arrival, end))
        before = files_in(folders.home)
        assert file_away(folders, _filed_before(folders, _ended(arrival, end), path)) == path
        assert files_in(folders.home) == before

    def test_another_reason_replaces_the_old_one(self, folders, arrive):
        """A file rejected again, for something else, is explained by its last answer."""
        arrival = arrive("x.dcm")
        path = file_away(folders, _ended(arrival, "rejected"))
        again = replace(_ended(arrival, "rejected"), reason_code="not_a_chest", reason="It is a hand.")
        assert file_away(folders, _filed_before(folders, again, path)) == path
        told = json.loads(path.with_name("x.dcm.reason.json").read_text())
        assert (told["reason_code"], told["reason"]) == ("not_a_chest", "It is a hand.")

    def test_nothing_is_replaced(self, folders, arrive):
        """Another film has the name in processed/: the arrival id goes in front."""
        arrival, other = arrive("x.dcm"), arrive("y.dcm", b"other")
        first = file_away(folders, _ended(arrival, "rejected"))
        taken = file_away(folders, replace(_ended(other, "processed"), source_name="y.dcm"))
        taken.rename(taken.with_name("x.dcm"))
        path = file_away(folders, _filed_before(folders, _ended(arrival, "processed"), first))
        assert path.name == f"{arrival.arrival_id}-x.dcm"
        assert taken.with_name("x.dcm").read_bytes() == b"other"

    def test_the_file_of_another_arrival_with_the_same_bytes_is_not_taken(self, folders, arrive):
        """A duplicate that is gone is taken for the film of the same name and bytes, which stays where it is."""
        first, again = arrive("x.dcm"), arrive("x.dcm")
        path = file_away(folders, _ended(first, "processed"))
        file_away(folders, _ended(again, "duplicates")).unlink()
        assert file_away(folders, _ended(again, "duplicates")) == path
        assert path.exists()

    def test_what_somebody_put_in_the_place_of_a_reason_stays(self, folders, arrive):
        """Only our own reason is removed."""
        arrival = arrive("x.dcm")
        path = file_away(folders, _ended(arrival, "rejected"))
        reason = path.with_name("x.dcm.reason.json")
        reason.write_text("A note of the radiologist.")
        file_away(folders, _filed_before(folders, _ended(arrival, "processed"), path))
        assert reason.read_text() == "A note of the radiologist."

    def test_the_original_is_found_in_each_place(self, folders, arrive):
        """In the spool, where it was filed, and, while the database does not know, by name and bytes."""
        arrival = arrive("x.dcm")
        ended = _ended(arrival, "rejected")
        assert find_original(folders, ended) == claimed_file(folders, arrival.arrival_id)
        path = file_away(folders, ended)
        assert find_original(folders, _filed_before(folders, ended, path)) == path
        assert find_original(folders, ended) == path
        assert find_original(folders, replace(ended, filed_path="processed/x.dcm")) == path
        path.write_bytes(b"PIXELS")
        assert find_original(folders, ended) is None

    def test_two_names_that_look_alike(self, folders, arrive):
        r"""A byte that is no UTF-8 is written as ``\xff``, which may also be a name: each original is its own file."""
        first, second = arrive(b"\xff.dcm", b"one"), arrive(r"\xff.dcm", b"two")
        assert first.source_name == second.source_name
        ends = [_ended(arrival, "processed") for arrival in (first, second)]
        ends = [_filed_before(folders, ended, file_away(folders, ended)) for ended in ends]
        assert ends[0].filed_path == ends[1].filed_path
        assert [find_original(folders, ended).read_bytes() for ended in ends] == [b"one", b"two"]
        rejected = file_away(folders, replace(ends[1], **ENDS["rejected"]))
        assert rejected.read_bytes() == b"two"
        assert find_original(folders, ends[0]).read_bytes() == b"one"


def _filed_before(folders, ended, path):
    """Make what the database returns for an arrival that was filed at `path` before its last answer."""
    return replace(ended, filed_path=printable(os.fspath(path.relative_to(folders.home))))

"""The service's loop over real folders and a real database, with a scripted pipeline in place of the model."""

import errno
import itertools
import json
import shutil
import sqlite3
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from installed_command import files_below
from store_records import make_analysed, make_model, make_rejected

from xray_batch.errors import DatabaseUnavailableError, DecoderDiedError, ServiceFailedError
from xray_batch.intake import Folders
from xray_batch.logs import configure_logs
from xray_batch.pipeline.engine import Answered, Failure
from xray_batch.pipeline.requeue import requeue
from xray_batch.pipeline.room import Room
from xray_batch.revisions import open_database
from xray_batch.service import Service, Vitals
from xray_batch.service import breaker as breaker_module
from xray_batch.service import intake as intake_module
from xray_batch.service import leases as leases_module
from xray_batch.service import loop as service_module
from xray_batch.service import quota as quota_module
from xray_batch.service import reporting as reporting_module
from xray_batch.service.disk_thread import DiskThread
from xray_batch.settings import Settings
from xray_batch.store import AnswerSelection, Store

LATER = Failure(error="DeviceMemoryError", transient=True)
BROKEN = Failure(error="DecoderDiedError", transient=False)


class ScriptedPipeline:
    """Answers each file with what its name is scripted to; what comes last is repeated."""

    device = "cpu"

    def __init__(self, script):
        self.model = make_model()
        self.tries = Counter()
        self._script = script

    def run(self, jobs):
        """Answer each job in a group of its own."""
        for job in jobs:
            name = job.path.name
            answers = self._script.get(name, [make_analysed()])
            result = answers[min(self.tries[name], len(answers) - 1)]
            self.tries[name] += 1
            yield [Answered(job=job, result=result, content_sha256=job.context.content_sha256)]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """Let nothing be put off: no test here is about time."""
    monkeypatch.setattr(leases_module, "_RETRY_SECONDS", 0.0)
    configure_logs("error", "json")


@pytest.fixture
def home(tmp_path):
    """Make the folders of an installation, with three files in the inbox."""
    folders = Folders(tmp_path / "home")
    folders.create()
    for name in ("a.png", "b.png", "c.png"):
        (folders.inbox / name).write_text(f"content of {name}")
    return folders


def run_until_idle(folders, pipeline, arrivals=3):
    """Run the service until so many files arrived and none is pending; return the rows by file name."""
    settings = Settings(home=folders.home, settle_seconds=0, scan_seconds=0.1, batch_size=4, lease_seconds=10)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        service = Service(folders, pipeline, store, settings, Vitals())
        thread = threading.Thread(target=service.run)
        thread.start()
        try:
            for _ in range(600):
                accounting = store.accounting()
                if accounting.arrivals >= arrivals and not accounting.pending and not files_below(folders.spool):
                    break
                thread.join(0.05)
        finally:
            service.stop()
            thread.join()
        assert store.accounting().balances
        return {str(row["source_name"]): row for row in store.results()}


def test_a_transient_failure_is_never_held_against_the_file(home):
    """A device without memory for ten tries, more than `max_attempts`, rejects nothing."""
    pipeline = ScriptedPipeline({"b.png": [LATER] * 10 + [make_analysed()]})
    rows = run_until_idle(home, pipeline)
    assert pipeline.tries["b.png"] == 11
    assert rows["b.png"]["outcome"] == "pneumonia"


def test_decode_workers_that_cannot_be_started_are_told(home, monkeypatch):
    """The service is not ready, whatever else can be used, until there is an answer again."""
    monkeypatch.setattr(service_module, "_BACK_OFF_SECONDS", 0.0)
    vitals, seen = Vitals(), []

    class Broken(ScriptedPipeline):
        """Can start no worker for two turns."""

        def run(self, jobs):
            seen.append(vitals.health.checks["decoders"])
            if len(seen) < 3:
                next(iter(jobs))
                raise DecoderDiedError("decode workers cannot be used")
            yield from super().run(jobs)
            service.stop()

    settings = Settings(home=home.home, settle_seconds=0, scan_seconds=0.1)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        service = Service(home, Broken({}), store, settings, vitals)
        service.run()
        assert store.accounting().results == 3
    assert seen == [True, False, False]
    assert vitals.health.checks["decoders"]


def test_a_file_that_ends_every_decoder_is_given_up(home):
    """After `max_attempts` tries the file is not analysed; its neighbours are not touched."""
    pipeline = ScriptedPipeline({"b.png": [BROKEN]})
    rows = run_until_idle(home, pipeline)
    assert pipeline.tries["b.png"] == 3
    assert rows["b.png"]["reason_code"] == "attempts_exhausted"
    assert (home.rejected / "b.png.reason.json").exists()
    assert {rows[name]["outcome"] for name in ("a.png", "c.png")} == {"pneumonia"}


def test_a_hang_of_the_folders_is_not_held_against_the_file(home, monkeypatch):
    """A decoder that waits for a share is ended like one that does not end by itself."""
    monkeypatch.setattr(DiskThread, "hung_within", lambda _disk, _seconds: pipeline.tries["b.png"] < 10)
    pipeline = ScriptedPipeline({"b.png": [BROKEN]})
    rows = run_until_idle(home, pipeline)
    assert pipeline.tries["b.png"] > 10
    assert rows["b.png"]["reason_code"] == "attempts_exhausted"


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the service runs after it."""


def run_and_die(home, pipeline):
    """Start the service anew each time it is killed, until it lives; return the rows by file name."""
    settings = Settings(home=home.home, settle_seconds=0)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        for _ in range(100):
            store.end_leases()
            try:
                Service(home, pipeline, store, settings, Vitals())._turn()
            except Killed:
                continue
            break
        return {str(row["source_name"]): row for row in store.results()}


def test_kills_are_not_held_against_files_that_were_in_hand(home):
    """A service that is killed whenever it has more than one file in hand answers all of them, one by one."""

    class Unlucky(ScriptedPipeline):
        def run(self, jobs):
            together = list(jobs)
            if len(together) > 1:
                raise Killed
            yield from super().run(together)

    rows = run_and_die(home, Unlucky({}))
    assert [row["outcome"] for row in rows.values()] == ["pneumonia"] * 3


def test_a_file_that_ends_the_service_is_given_up(home):
    """Its neighbours are answered."""

    class Poisoned(ScriptedPipeline):
        def run(self, jobs):
            together = list(jobs)
            if any(job.path.name == "b.png" for job in together):
                raise Killed
            yield from super().run(together)

    rows = run_and_die(home, Poisoned({}))
    assert rows["b.png"]["reason_code"] == "attempts_exhausted"
    assert {rows[name]["outcome"] for name in ("a.png", "c.png")} == {"pneumonia"}


def test_an_answer_that_the_database_refuses_takes_no_other_with_it(home):
    """A probability that breaks a constraint costs its own file three tries, and the service goes on."""
    rows = run_until_idle(home, ScriptedPipeline({"b.png": [make_analysed(p_normal=7.0)]}))
    assert rows["b.png"]["reason_code"] == "attempts_exhausted"
    assert {rows[name]["outcome"] for name in ("a.png", "c.png")} == {"pneumonia"}


def test_a_claimed_file_that_cannot_be_read_stops_nothing(home, monkeypatch):
    """A bad sector under one file of the spool: the others are answered, and it is tried again."""
    real, failures = intake_module.hash_claimed, [OSError(5, "Input/output error")] * 3

    def hash_claimed(claimed):
        if claimed.source_name == "b.png" and failures:
            raise failures.pop()
        return real(claimed)

    monkeypatch.setattr(intake_module, "hash_claimed", hash_claimed)
    rows = run_until_idle(home, ScriptedPipeline({}))
    assert not failures
    assert set(rows) == {"a.png", "b.png", "c.png"}


def test_a_spool_that_cannot_be_read_is_not_held_against_the_file(home, monkeypatch):
    """More disk errors than leases are allowed, when the file is looked for: it is answered in the end."""
    monkeypatch.setattr(service_module, "_LEASES_AT_MOST", 2)
    real, failures = service_module.find_original, [OSError(5, "Input/output error")] * 12

    def find_original(folders, original):
        if failures:
            raise failures.pop()
        return real(folders, original)

    monkeypatch.setattr(service_module, "find_original", find_original)
    rows = run_until_idle(home, ScriptedPipeline({}))
    assert {row["outcome"] for row in rows.values()} == {"pneumonia"}


def test_it_beats_while_no_original_can_be_read(home, monkeypatch):
    """Looking for the files of a long queue in vain is no standstill: systemd is told between any two of them."""
    real_find, real_beat, happened = service_module.find_original, reporting_module.Reporting.beat, []

    def find_original(folders, original):
        happened.append("look")
        if happened.count("look") <= 12:
            raise OSError(5, "Input/output error")
        return real_find(folders, original)

    def beat(reporting):
        happened.append("beat")
        real_beat(reporting)

    monkeypatch.setattr(service_module, "find_original", find_original)
    monkeypatch.setattr(reporting_module.Reporting, "beat", beat)
    assert set(run_until_idle(home, ScriptedPipeline({}))) == {"a.png", "b.png", "c.png"}
    assert ("look", "look") not in set(itertools.pairwise(happened))


def test_copies_alone_are_filed_away(home):
    """There is no film to be answered, after which the folders would be tidied anyway."""
    run_until_idle(home, ScriptedPipeline({}))
    (home.inbox / "copy.png").write_text("content of a.png")
    run_until_idle(home, ScriptedPipeline({}), arrivals=4)
    assert [path.name for path in files_below(home.duplicates)] == ["copy.png"]


def test_links_are_left_in_the_inbox(home, tmp_path, capsys):
    """A link in the inbox is left alone and counted in the log, without its name; real files go on."""
    secret = tmp_path / "secret"
    secret.write_text("not for the inbox")
    (home.inbox / "ZZCANARY").symlink_to(secret)
    configure_logs("warning", "json")
    run_until_idle(home, ScriptedPipeline({}))
    assert (home.inbox / "ZZCANARY").is_symlink()
    log = capsys.readouterr().err
    assert log.count("files left in the inbox") == 1  # and not with every scan
    assert "ZZCANARY" not in log


def test_that_nothing_is_left_any_more_is_no_warning(home, capsys):
    """Once what was left alone has gone, the log says so, and not that files were left."""
    left = home.inbox / "film.dcm.part"
    left.touch()
    configure_logs("info", "json")
    settings = Settings(home=home.home, settle_seconds=0)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        service = Service(home, ScriptedPipeline({}), store, settings, Vitals())
        service._take_in()
        assert '"ignored_name": 1, "event": "files left in the inbox", "level": "warning"' in capsys.readouterr().err
        left.unlink()
        service._intake.run(["film.dcm"])  # a name calls for a scan
        log = capsys.readouterr().err
    assert '"event": "no file is left in the inbox", "level": "info"' in log
    assert "files left in the inbox" not in log


def test_a_huge_drop_is_taken_in_groups(home, monkeypatch):
    """Many more files than a group, and than the spool may hold, are all taken and answered."""
    monkeypatch.setattr(intake_module, "_GROUP", 4)
    monkeypatch.setattr(intake_module, "_SPOOL_FILES", 6)
    for number in range(47):
        (home.inbox / f"{number}.png").write_text(f"film {number}")
    assert len(run_until_idle(home, ScriptedPipeline({}), arrivals=50)) == 50


def test_a_full_spool_is_filled_again_at_a_quarter(home, monkeypatch):
    """A huge inbox is not looked through for every answer: a scan of it may take as long as many of them."""
    monkeypatch.setattr(intake_module, "_SPOOL_FILES", 40)
    monkeypatch.setattr(intake_module, "_HASH_SECONDS", 60.0)  # no group is cut short
    monkeypatch.setattr(quota_module, "_SECONDS", 60.0)
    scan, scans = intake_module.scan, []
    monkeypatch.setattr(intake_module, "scan", lambda inbox: (scans.append(inbox), scan(inbox))[1])
    drop_more(home, 200)
    settings = Settings(home=home.home, settle_seconds=0, scan_seconds=3600, batch_size=4)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        service = Service(home, ScriptedPipeline({}), store, settings, Vitals())
        service._turn()
        assert store.accounting().results == 203
    assert 17 <= len(scans) <= 30  # 163 films that found no room, ten at least at a time


def test_what_is_claimed_is_recorded_before_the_next_scan(home, monkeypatch):
    """A rename calls for a scan in between, and the spool never has more than its room."""
    monkeypatch.setattr(intake_module, "_GROUP", 2)
    monkeypatch.setattr(intake_module, "_SPOOL_FILES", 7)
    scan, scans = intake_module.scan, []
    monkeypatch.setattr(intake_module, "scan", lambda inbox: (scans.append(inbox), scan(inbox))[1])
    drop_more(home, 10)
    settings = Settings(home=home.home, settle_seconds=0)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        service = Service(home, ScriptedPipeline({}), store, settings, Vitals())
        for arrivals, looks in ((2, 1), (4, 1)):
            service._take_in()
            assert (store.accounting().arrivals, len(scans)) == (arrivals, looks)
        service._intake.run(["0.png"])
        assert (store.accounting().arrivals, len(scans)) == (6, 2)
        assert len(files_below(home.spool)) == 7
        (home.inbox / "late.png").write_text("a film whose event came in between")
        service._take_in()
        assert (store.accounting().arrivals, len(scans)) == (7, 2)
        assert service._next_scan <= service._scanned_at
        service._take_in()
        assert len(scans) == 3


def test_an_urgent_film_that_has_not_settled_is_looked_at_soon(home, monkeypatch):
    """Though the spool has no room for routine ones, of which nothing is known then."""
    monkeypatch.setattr(intake_module, "_SPOOL_FILES", 2)
    settings = Settings(home=home.home, settle_seconds=2, scan_seconds=3600)
    clock = itertools.count(100.0, 10.0)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        service = Service(home, ScriptedPipeline({}), store, settings, Vitals())
        monkeypatch.setattr(service._intake._tracker, "_clock", lambda: next(clock))
        assert service._intake.run() == 2
        drop_more(home, 1, "urgent")
        assert service._intake.run() == 2
        assert store.accounting().arrivals == 2
        drop_more(home, 0, "urgent")
        assert service._intake.run() == 3600
        assert store.accounting().arrivals == 3


def test_hashing_makes_way_for_answers(home, monkeypatch):
    """On a slow disk a group is cut short, urgent ones first, and the rest follows without another scan."""
    monkeypatch.setattr(intake_module, "_HASH_SECONDS", -1.0)
    drop_more(home, 1, "urgent")
    settings = Settings(home=home.home, settle_seconds=0)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        service = Service(home, ScriptedPipeline({}), store, settings, Vitals())
        service._take_in()
        assert (store.accounting().arrivals, service._intake.urgent_came()) == (1, True)
        assert service._next_scan <= service._scanned_at
        for _ in range(3):
            service._take_in()
        assert store.accounting().arrivals == 4


def test_files_that_may_not_be_moved_hold_up_no_other(home, monkeypatch, capsys):
    """More unmovable files than a group, all older than the others: the others are taken, those are counted."""
    monkeypatch.setattr(intake_module, "_GROUP", 2)
    real = intake_module.claim

    def claim(file, folders):
        if file.name in ("a.png", "b.png"):
            raise PermissionError(13, "Permission denied")
        return real(file, folders)

    monkeypatch.setattr(intake_module, "claim", claim)
    configure_logs("warning", "json")
    assert set(run_until_idle(home, ScriptedPipeline({}), arrivals=1)) == {"c.png"}
    assert '"EACCES": 2' in capsys.readouterr().err


def test_an_inbox_that_cannot_be_read_is_told_once(home, monkeypatch, capsys):
    """Not at every scan, but when it begins, when the reason is another one, and when it is over."""
    real, troubles = intake_module.scan, [errno.ENOENT, errno.ENOENT, errno.EACCES, errno.EACCES, errno.EACCES]

    def read(inbox):
        if troubles:
            raise OSError(troubles.pop(0), "cannot be read")
        return real(inbox)

    monkeypatch.setattr(intake_module, "scan", read)
    configure_logs("info", "json")
    assert len(run_until_idle(home, ScriptedPipeline({}))) == 3
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    told = [(line["event"], line.get("why")) for line in lines if line["event"].startswith("inbox ")]
    refusals = [("inbox cannot be read", why) for why in ("ENOENT", "EACCES")]
    assert told == [*refusals, ("inbox can be read again", None)]


def test_a_content_that_vanished_from_the_spool_is_ended(home, monkeypatch):
    """When somebody removes a file from the spool, its content ends not analysed, and the service goes on."""
    monkeypatch.setattr(service_module, "_LEASES_AT_MOST", 2)

    class Thief(ScriptedPipeline):
        def run(self, jobs):
            for job in jobs:
                if job.path.name == "b.png" and not self.tries["b.png"]:
                    shutil.rmtree(job.path.parent)
                    self.tries["b.png"] = 1
                    yield [Answered(job=job, result=LATER)]
                else:
                    yield [Answered(job=job, result=make_analysed())]

    rows = run_until_idle(home, Thief({}))
    assert rows["b.png"]["reason_code"] == "attempts_exhausted"
    assert {rows[name]["outcome"] for name in ("a.png", "c.png")} == {"pneumonia"}


def test_files_that_another_service_files_away_take_no_room(home, monkeypatch):
    """More files than the spool may hold, recorded here and filed away by another: this service claims on."""
    monkeypatch.setattr(intake_module, "_SPOOL_FILES", 3)
    settings = Settings(home=home.home, settle_seconds=0)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        service = Service(home, ScriptedPipeline({}), store, settings, Vitals())
        service._take_in()
        assert len(run_until_idle(home, ScriptedPipeline({}))) == 3
        (home.inbox / "d.png").write_text("content of d.png")
        service._take_in()  # learns that its room is free again
        service._take_in()
        assert store.queue_status().queued == 1


def test_files_of_an_earlier_run_are_not_read_twice(home, monkeypatch):
    """What the database knows already is not hashed again after a restart."""
    settings = Settings(home=home.home, settle_seconds=0)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        service = Service(home, ScriptedPipeline({}), store, settings, Vitals())
        service._take_in()
        assert store.queue_status().queued == 3
    hashed = []
    real = intake_module.hash_claimed
    monkeypatch.setattr(intake_module, "hash_claimed", lambda claimed: hashed.append(claimed) or real(claimed))
    assert len(run_until_idle(home, ScriptedPipeline({}))) == 3
    assert not hashed


@pytest.mark.parametrize(("drain_seconds", "times"), [(0, 1), (3600, 2)], ids=["no time to drain", "told twice"])
def test_stopping_gives_back_what_is_not_done(drain_seconds, times, home):
    """A stop in the middle leaves the rest queued, with no attempt counted."""
    settings = Settings(home=home.home, settle_seconds=0, batch_size=4, drain_seconds=drain_seconds)

    class Stopped(ScriptedPipeline):
        def run(self, jobs):
            for group in super().run(jobs):
                for _ in range(times):
                    running.stop()
                yield group

    with closing(Store(open_database(settings.resolved_database_url))) as store:
        running = Service(home, Stopped({}), store, settings, Vitals())
        running.run()
        assert store.accounting().results == 1
        assert store.queue_status().leased == 0
        leases = store.lease(limit=4, lease_seconds=10)
        assert [lease.attempts for lease in leases] == [1, 1]
    assert Path(home.service_state).exists() is False


@pytest.mark.parametrize("moment", ["in the midst of an event", "before the scan"])
def test_a_signal_comes_at_any_moment(home, moment, monkeypatch):
    """The handler waits for no lock that the loop it interrupts holds, and nothing that the loop does undoes it."""
    settings = Settings(home=home.home, settle_seconds=0, scan_seconds=3600)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        service = Service(home, ScriptedPipeline({}), store, settings, Vitals())
        clear, give_back = service._wake.clear, service._leases.give_back

        def clear_and_stop():
            with service._wake._cond:
                service.stop()
            clear()

        def stop_and_give_back():
            service.stop()
            give_back()

        if moment == "before the scan":
            monkeypatch.setattr(service._leases, "give_back", stop_and_give_back)
        else:
            monkeypatch.setattr(service._wake, "clear", clear_and_stop)
        running = threading.Thread(target=service.run, daemon=True)
        running.start()
        running.join(30)
        assert not running.is_alive()


def test_a_broken_service_gives_up_no_films(home, monkeypatch):
    """While every attempt fails, nothing is held against the files; when the cause is gone, all are answered."""
    monkeypatch.setattr(breaker_module, "_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(leases_module, "_RETRY_SECONDS", 3.0)
    for number in range(60):
        (home.inbox / f"{number}.png").write_text(f"content {number}")

    failed, opened = breaker_module.CircuitBreaker.failed, []

    def note_opening(breaker):
        if begins := failed(breaker):
            opened.append(pipeline.failures)
        return begins

    class Broken(ScriptedPipeline):
        """Nothing works until the breaker has been seen to stop everything."""

        failures = 0

        def run(self, jobs):
            is_broken = not opened
            for job in jobs:
                self.failures += is_broken
                answer = BROKEN if is_broken else make_analysed()
                yield [Answered(job=job, result=answer, content_sha256=job.context.content_sha256)]

    monkeypatch.setattr(breaker_module.CircuitBreaker, "failed", note_opening)
    pipeline = Broken({})
    rows = run_until_idle(home, pipeline, arrivals=63)
    assert Counter(row["outcome"] for row in rows.values()) == {"pneumonia": 63}
    assert pipeline.failures - opened[0] < 4  # nothing was taken up but what was in hand


def test_to_give_up_a_file_is_no_success(home, monkeypatch):
    """While every attempt fails, files that have had all of theirs do not end the pauses."""
    monkeypatch.setattr(breaker_module, "_PAUSE_SECONDS", 0.0)
    settings = Settings(home=home.home, settle_seconds=0, max_attempts=1)
    pipeline = ScriptedPipeline({"a.png": [BROKEN], "b.png": [BROKEN], "c.png": [BROKEN]})
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        vitals = Vitals()
        service = Service(home, pipeline, store, settings, vitals)
        for _ in range(30):
            service._breaker.failed()
        service._turn()
        assert (store.accounting().rejected, service._breaker.is_open) == (3, True)
        assert not vitals.health.checks["decoders"]


def test_an_error_that_ends_the_service_quotes_nothing(home, capsys):
    """Its class and our own lines are logged; what the error says may be about a patient."""

    class Failing(ScriptedPipeline):
        def run(self, jobs):
            next(jobs)
            raise RuntimeError("CUDA error while working on Kowalska.png")

    settings = Settings(home=home.home, settle_seconds=0)
    configure_logs("error", "json")
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        with pytest.raises(ServiceFailedError) as failed:
            Service(home, Failing({}), store, settings, Vitals()).run()
        assert store.queue_status().leased == 3  # the attempts count
    said = capsys.readouterr().err
    assert '"error": "RuntimeError"' in said
    assert "xray_batch/service/loop.py:" in said
    assert "Kowalska" not in said + str(failed.value)


def test_a_full_disk_stops_claiming_and_recovers(home, monkeypatch, capsys):
    """Below the floor files stay in the inbox and the service stays up; with room again they are taken."""
    configure_logs("info", "json")
    looks = iter([1, 1, 1])
    monkeypatch.setattr(
        intake_module, "look_for_room", lambda _disks, _floor: Room(free_bytes=next(looks, 9), floor_bytes=4)
    )
    assert len(run_until_idle(home, ScriptedPipeline({}))) == 3
    said = capsys.readouterr().err
    assert said.index("the disk is nearly full") < said.index("the disk has room again") < said.index('"arrived"')


def test_a_full_disk_stops_the_work(home, monkeypatch):
    """What is in the spool waits, for no answer could be kept, and what is in the inbox counts as waiting."""
    room, full = (Room(free_bytes=free_bytes, floor_bytes=4) for free_bytes in (9, 0))
    settings = Settings(home=home.home, settle_seconds=0)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        service = Service(home, ScriptedPipeline({}), store, settings, Vitals())
        monkeypatch.setattr(intake_module, "look_for_room", lambda _disks, _floor: full)
        for _ in range(2):
            service._turn()
        assert service._metrics.registry.get_sample_value("xray_oldest_unprocessed_seconds") > 0
        monkeypatch.setattr(intake_module, "look_for_room", lambda _disks, _floor: room)
        service._take_in()
        monkeypatch.setattr(intake_module, "look_for_room", lambda _disks, _floor: full)
        service._turn()
        assert (store.queue_status().queued, store.accounting().results) == (3, 0)


def test_a_full_disk_is_told_where_the_database_refuses_everything(home, monkeypatch, capsys):
    """Log, readiness and figures say so although no turn gets beyond its first write; and likewise that it is over."""
    configure_logs("info", "json")
    monkeypatch.setattr(service_module, "_BACK_OFF_SECONDS", 0.0)
    rooms = iter([9, 9, 9, 1, 1])  # one look as a turn begins, one as it is interrupted
    monkeypatch.setattr(
        intake_module, "look_for_room", lambda _disks, _floor: Room(free_bytes=next(rooms, 9), floor_bytes=4)
    )
    seen = []

    class Full(Store):
        """Takes nothing."""

        def register_model(self, _model):
            seen.append((vitals.health.checks["disk"], vitals.metrics.registry.get_sample_value("xray_claiming")))
            if len(seen) == 4:
                service.stop()
            raise DatabaseUnavailableError("database or disk is full")

    settings = Settings(home=home.home)
    vitals = Vitals()
    with closing(Full(open_database(settings.resolved_database_url))) as store:
        service = Service(home, ScriptedPipeline({}), store, settings, vitals)
        service.run()
    assert seen[1:] == [(True, 1), (False, 0), (True, 1)]
    said = capsys.readouterr().err
    assert said.index("the disk is nearly full") < said.index("the disk has room again")


def test_the_model_is_registered_again_after_an_outage(home):
    """Once is enough as long as the database answers; what comes back may be another, restored one."""
    registered, turns = [], itertools.count()

    class Restarted(Store):
        """Is away in the third turn."""

        def register_model(self, model):
            super().register_model(model)
            registered.append(model)

        def queue_status(self):
            turn = next(turns)
            if turn == 2:
                raise DatabaseUnavailableError("the database is away")
            if turn == 5:
                service.stop()
            return super().queue_status()

    settings = Settings(home=home.home, settle_seconds=0, scan_seconds=0.1)
    with closing(Restarted(open_database(settings.resolved_database_url))) as store:
        service = Service(home, ScriptedPipeline({}), store, settings, Vitals())
        service.run()
    assert len(registered) == 2


def test_a_database_that_another_takes_the_place_of_is_told_of_the_spool(home, monkeypatch):
    """A backup of before is put in place of the file: films in hand, which it knows nothing of, are answered in it."""
    monkeypatch.setattr(service_module, "_BACK_OFF_SECONDS", 0.0)
    database = home.home / "results.sqlite3"
    open_database(f"sqlite:///{database}").dispose()
    backup = shutil.copyfile(database, home.home / "backup")
    turns = itertools.count()

    class Restored(Store):
        """Gets another file in the midst of the first work, and some turns after that."""

        def retry_later(self, lease, delay, *, counted):
            super().retry_later(lease, delay, counted=counted)
            if pipeline.tries.total() == 3:
                backup.rename(database)

        def register_model(self, model):
            self.turn()
            super().register_model(model)

        def queue_status(self):
            self.turn()
            return super().queue_status()

        def turn(self):
            if next(turns) == 20:
                service.stop()

    pipeline = ScriptedPipeline({name: [LATER, make_analysed()] for name in ("a.png", "b.png", "c.png")})
    settings = Settings(home=home.home, settle_seconds=0, scan_seconds=0.1)
    with closing(Restored(open_database(settings.resolved_database_url))) as store:
        service = Service(home, pipeline, store, settings, Vitals())
        service.run()
        assert store.accounting().results == 3
    assert files_below(home.spool) == []


def test_a_folder_that_is_gone_is_told(home, monkeypatch):
    """Nothing can be taken in without the spool: the service is not ready, and is again when the folder is back."""
    monkeypatch.setattr(service_module, "_BACK_OFF_SECONDS", 0.0)
    vitals, seen = Vitals(), []

    class Watching(Store):
        """Looks how the service says it is, as each turn begins."""

        def register_model(self, model):
            super().register_model(model)
            seen.append(vitals.health.checks["disk"])
            if len(seen) == 3:
                home.spool.mkdir()

        def queue_status(self):
            if seen and len(seen) == 3:
                service.stop()
            return super().queue_status()

    home.spool.rmdir()
    settings = Settings(home=home.home, settle_seconds=0, scan_seconds=0.1)
    with closing(Watching(open_database(settings.resolved_database_url))) as store:
        service = Service(home, ScriptedPipeline({}), store, settings, vitals)
        service.run()
    assert seen == [False, False, False]
    assert vitals.health.checks["disk"]


def test_a_requeued_content_whose_original_vanished_keeps_its_answer(home):
    """Somebody removes it between requeue and lease: after some looks the stored answer stands, and nothing waits."""
    run_until_idle(home, ScriptedPipeline({}))
    settings = Settings(home=home.home)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        assert requeue(store, home, AnswerSelection()).queued == 3
    (path,) = [path for path in files_below(home.processed) if path.name == "b.png"]
    path.unlink()
    pipeline = ScriptedPipeline({"a.png": [make_rejected()]})
    rows = run_until_idle(home, pipeline)
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "a.png": "not_analysed",
        "b.png": "pneumonia",
        "c.png": "pneumonia",
    }
    assert pipeline.tries == {"a.png": 1, "c.png": 1}
    assert (home.rejected / "a.png.reason.json").exists()


def test_a_requeued_content_whose_original_is_back_is_answered(home, monkeypatch):
    """One look in vain does not withdraw what was asked for: somebody may have had the file elsewhere for a moment."""
    run_until_idle(home, ScriptedPipeline({}))
    settings = Settings(home=home.home)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        assert requeue(store, home, AnswerSelection()).queued == 3
    find_original, looks = service_module.find_original, itertools.count()
    monkeypatch.setattr(
        service_module,
        "find_original",
        lambda folders, original: find_original(folders, original) if next(looks) else None,
    )
    pipeline = ScriptedPipeline({})
    run_until_idle(home, pipeline)
    assert pipeline.tries == {"a.png": 1, "b.png": 1, "c.png": 1}


def test_a_tally_that_is_wrong_raises_the_alarm(home, monkeypatch):
    """The count of all arrivals finds it, and the figure says so until it is mended."""
    monkeypatch.setattr(reporting_module, "_RECOUNT_SECONDS", 0.0)
    settings = Settings(home=home.home, settle_seconds=0)
    with closing(Store(open_database(settings.resolved_database_url))) as store:
        service = Service(home, ScriptedPipeline({}), store, settings, Vitals())
        for wrong in (0, 3, 0):
            with sqlite3.connect(home.home / "results.sqlite3") as connection:
                connection.execute("UPDATE tally SET arrivals = ? WHERE standing = 'duplicates'", [wrong])
            connection.close()
            service._reporting.look()
            assert service._metrics.registry.get_sample_value("xray_unbalanced_arrivals") == wrong


def drop_more(folders, count, below=""):
    """Put so many more files into the inbox."""
    (folders.inbox / below).mkdir(exist_ok=True)
    for number in range(count):
        (folders.inbox / below / f"{below}{number}.png").write_text(f"content of {below}{number}")


class Remembering(ScriptedPipeline):
    """Keeps the order in which files were taken up."""

    def __init__(self, script):
        super().__init__(script)
        self.order = []

    def run(self, jobs):
        """Note each job."""

        def noted():
            for job in jobs:
                self.order.append(job.path.name)
                yield job

        yield from super().run(noted())


def test_urgent_files_are_taken_up_first_and_the_rest_every_other_turn(home):
    """They lie where they were sent, below the day of arrival."""
    drop_more(home, 20)
    drop_more(home, 3, "urgent")
    pipeline = Remembering({})
    rows = run_until_idle(home, pipeline, arrivals=26)
    assert [name.startswith("urgent") for name in pipeline.order[:7]] == [True, False] * 3 + [False]
    assert "urgent/urgent0.png" in rows
    filed = {path.relative_to(home.processed).parts[3:] for path in files_below(home.processed)}
    assert {("urgent", "urgent0.png"), ("a.png",)} < filed


def test_urgent_files_pass_a_full_spool(home, monkeypatch):
    """The room of one kind is not taken by the other: here a routine file has none at all, and then an urgent one."""
    for full, urgent in (("_SPOOL_FILES", True), ("_SPOOL_URGENT", False)):
        drop_more(home, 2, "urgent" if urgent else f"ward {urgent}")
        with monkeypatch.context() as patch:
            patch.setattr(intake_module, full, 0)
            if not urgent:
                drop_more(home, 5, "urgent")
            rows = run_until_idle(home, ScriptedPipeline({}), arrivals=2 if urgent else 7)
        assert {name.startswith("urgent/") for name in rows} == ({True} if urgent else {True, False})


def test_few_routine_files_are_claimed_beside_urgent_ones(home, monkeypatch):
    """An urgent file waits for the claim and the hash of a handful, not of a whole group; the others follow."""
    groups = []
    record = intake_module.Intake._record_arrivals
    monkeypatch.setattr(
        intake_module.Intake,
        "_record_arrivals",
        lambda intake, claims: (groups.append([one.is_urgent for one in claims]), record(intake, claims))[1],
    )
    monkeypatch.setattr(intake_module, "_HASH_SECONDS", 60.0)  # no group is cut short
    monkeypatch.setattr(quota_module, "_SECONDS", 60.0)
    drop_more(home, 60)
    drop_more(home, 2, "urgent")
    run_until_idle(home, ScriptedPipeline({}), arrivals=65)
    assert groups[0] == [True, True] + [False] * 8
    assert sum(map(len, groups)) == 65

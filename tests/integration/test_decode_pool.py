"""Decode workers as real processes: what they hand over, what they may use, and what their end costs."""

import errno
import hashlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import RAMP, write_dicom
from input_specs import make_spec
from PIL import Image
from pydicom import uid
from zip_factory import make_zip

from xray_batch.decode import decode_file
from xray_batch.errors import DecoderDiedError, ReasonCode
from xray_batch.pipeline import pool as pool_module
from xray_batch.pipeline import worker_process
from xray_batch.pipeline.environment import worker_environment
from xray_batch.pipeline.pool import DecodePool, DecodeWorker
from xray_batch.pipeline.unpack import Unpacking
from xray_batch.pipeline.worker import Reply
from xray_batch.pipeline.worker_process import WorkerLimits
from xray_batch.records import ImageWarning, Rejection, SourceFormat
from xray_batch.standardize import prepare

REPOSITORY = Path(__file__).resolve().parent.parent.parent

SPEC = make_spec()
LIMITS = WorkerLimits(seconds=30.0, address_space=2048 << 20)

#: Longer than anything here takes on a busy machine.
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Have the workers import the package that is tested, installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


@pytest.fixture
def image_file(tmp_path):
    """Write one good image."""
    return write_dicom(tmp_path / "good.dcm")


def worker_pids(parent=None):
    """Return the decode workers of a process, this one if None."""
    parent = os.getpid() if parent is None else parent
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                status = (entry / "status").read_text()
            except OSError:  # ended while we looked
                continue
            if b"xray_batch.pipeline.worker" in arguments and f"\nPPid:\t{parent}\n" in status:
                found.add(int(entry.name))
    return found


def is_running(pid):
    """Whether a process is there and has not ended; who should have waited for it may not have yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until_ready(count):
    """Wait until so many workers take files: the last thing that they do before is to silence their stderr."""
    deadline = time.monotonic() + PATIENCE
    ready = set()
    while len(ready) < count and time.monotonic() < deadline:
        time.sleep(0.02)
        ready = {pid for pid in worker_pids() if Path(f"/proc/{pid}/fd/2").readlink() == Path(os.devnull)}
    assert len(ready) == count


def use_all(pool, count, image_file):
    """Give so many workers a file each, so that all of them are started, and take the results."""
    for job in range(count):
        pool.submit(f"first of {job}", image_file)
    for _ in range(count):
        take(pool)
    wait_until_ready(len(pool._threads))


def page_faults(pid):
    """Return how many pages a process has got from the kernel without reading a disk, see proc(5)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[7])


def limits_of(pid):
    """Return the soft limits of a process by their name in /proc."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): line[26:47].strip() for line in lines}


def take(pool):
    """Return the next result, which is to come."""
    decoded = pool.take(PATIENCE)
    assert decoded is not None
    return decoded


def decode_one(pool, path):
    """Decode one file and return the result."""
    pool.submit(path.name, path)
    return take(pool)


@contextmanager
def started(workers=1, limits=LIMITS):
    """Run a pool whose jobs are names."""
    with DecodePool[str](workers, SPEC, limits) as pool:
        yield pool


@contextmanager
def one_worker(limits=LIMITS):
    """Run a worker without a pool, and end it."""
    worker = DecodeWorker(SPEC, limits)
    try:
        yield worker
    finally:
        worker.kill()
        worker.close()


@pytest.mark.parametrize("kind", ["dicom", "png", "jpeg"])
def test_pixels_are_those_of_prepare(kind, tmp_path):
    """A worker hands over the pixels of `prepare`, bit for bit, and all that is known of the image."""
    path = tmp_path / "image"
    if kind == "dicom":
        write_dicom(path, PhotometricInterpretation="MONOCHROME1", BodyPartExamined=None)
    else:
        Image.fromarray((RAMP.stored >> 4).astype(np.uint8)).save(path, format=kind)
    with started() as pool:
        decoded = decode_one(pool, path)
    expected = prepare(decode_file(path), SPEC)
    assert decoded.job == "image"
    assert decoded.reply.content_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert decoded.pixels.tobytes() == expected.pixels.tobytes()
    assert (decoded.pixels.shape, decoded.pixels.dtype) == ((48, 40), np.float32)
    assert decoded.reply.header == expected.header
    assert decoded.reply.rendering == expected.rendering
    assert decoded.reply.warnings == expected.warnings
    assert (decoded.reply.input_mean, decoded.reply.input_std) == (expected.input_mean, expected.input_std)
    assert (decoded.reply.rows, decoded.reply.columns) == decode_file(path).pixels.shape
    assert 0 < decoded.reply.seconds < PATIENCE


def test_small_copies_of_films(tmp_path):
    """With a least side, workers hand over what a small copy in a JPEG 2000 film comes to, and say so."""
    path = write_dicom(
        tmp_path / "film.dcm",
        np.kron(RAMP.stored, np.ones((4, 4), np.uint16)),
        transfer_syntax=uid.JPEG2000Lossless,
        WindowCenter=2048,
        WindowWidth=4096,
    )
    with DecodePool[str](1, SPEC, LIMITS, least_side=64) as pool:
        decoded = decode_one(pool, path)
    expected = prepare(decode_file(path, least_side=64), SPEC)
    assert decoded.pixels.tobytes() == expected.pixels.tobytes()
    assert decoded.pixels.tobytes() != prepare(decode_file(path), SPEC).pixels.tobytes()
    assert decoded.reply.rendering == "window:LINEAR; decoded at 1/4"
    assert ImageWarning.REDUCED_RESOLUTION in decoded.reply.warnings
    assert (decoded.reply.rows, decoded.reply.columns) == (72, 90)


def test_workers_are_started_when_there_is_work_for_them(image_file):
    """One file takes one worker, however many there may be; the next ones come with more files, and stay."""
    with started(workers=3) as pool:
        for _ in range(2):
            decode_one(pool, image_file)
        assert len(worker_pids()) == 1
        use_all(pool, 2, image_file)
        use_all(pool, 1, image_file)
        assert len(worker_pids()) == 2
        use_all(pool, 5, image_file)
        assert len(worker_pids()) == 3


def test_every_job_is_answered_once(tmp_path):
    """Several workers answer every job once, each with the pixels of its own file."""
    files = [write_dicom(tmp_path / f"{n}.dcm", RAMP.stored // np.uint16(n + 1)) for n in range(12)]
    with started(workers=2) as pool:
        for path in files:
            pool.submit(path.name, path)
        decoded = {result.job: result for result in (take(pool) for _ in files)}
        assert pool.take(0) is None
    for path in files:
        assert np.array_equal(decoded[path.name].pixels, prepare(decode_file(path), SPEC).pixels)


def test_rejection(tmp_path):
    """A rejected file comes with the reason for the database, and the header it was refused by."""
    path = write_dicom(tmp_path / "lateral.dcm", ViewPosition="LL", PatientID="PAT9", BurnedInAnnotation="YES")
    with started() as pool:
        decoded = decode_one(pool, path)
    assert decoded.pixels is None
    assert decoded.reply.rejection.reason_code is ReasonCode.LATERAL_VIEW
    assert decoded.reply.content_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert decoded.reply.rejection.reason
    assert decoded.reply.header.source_format is SourceFormat.DICOM
    assert decoded.reply.header.patient_id == "PAT9"
    assert (decoded.reply.rendering, decoded.reply.failure) == (None, None)


def test_unreadable_file(tmp_path, image_file):
    """A file that is no image is rejected without a header; the worker goes on with the next."""
    (tmp_path / "text").write_text("This is no radiograph.")
    with started() as pool:
        decoded = decode_one(pool, tmp_path / "text")
        assert decoded.reply.rejection.reason_code is ReasonCode.UNREADABLE_FILE
        assert decoded.reply.header is None
        assert decode_one(pool, image_file).pixels is not None


def test_name_of_any_bytes(tmp_path, image_file):
    """A file whose name is no text is decoded like any other."""
    path = tmp_path / os.fsdecode(b"\xff\n'\"%s.dcm")
    image_file.rename(path)
    with started() as pool:
        assert decode_one(pool, path).pixels is not None


def test_file_that_is_gone(tmp_path):
    """A file that cannot be read is the system's failure, not held against the file."""
    with started() as pool:
        reply = decode_one(pool, tmp_path / "gone.dcm").reply
    assert (reply.failure, reply.transient, reply.rejection) == ("TransientError", True, None)


def test_memory_limit(tmp_path, image_file):
    """A file that takes more memory than allowed is rejected as too large; worker and pool go on."""
    large = write_dicom(tmp_path / "large.dcm", np.tile(RAMP.stored, (125, 100)))
    with started(limits=WorkerLimits(seconds=30.0, address_space=640 << 20)) as pool:
        reply = decode_one(pool, large).reply
        assert reply.rejection.reason_code is ReasonCode.TOO_LARGE
        assert "memory" in reply.rejection.reason
        assert decode_one(pool, image_file).pixels is not None


def test_killed_worker_costs_its_file_only(image_file):
    """A worker killed while it has a file costs that file an attempt; the next one gets a new worker."""
    with started() as pool:
        decode_one(pool, image_file)
        (first,) = worker_pids()
        os.kill(first, signal.SIGSTOP)  # so that it has the file when it is killed
        pool.submit("lost", image_file)
        assert pool.take(0.2) is None
        os.kill(first, signal.SIGKILL)
        lost = take(pool)
        assert (lost.job, lost.reply.failure, lost.pixels) == ("lost", "DecoderDiedError", None)
        assert not lost.reply.transient
        assert decode_one(pool, image_file).pixels is not None
        assert first not in worker_pids()


def test_other_workers_go_on(image_file):
    """While one worker hangs, the others answer everything else."""
    with started(workers=2) as pool:
        use_all(pool, 2, image_file)
        stopped = min(worker_pids())
        os.kill(stopped, signal.SIGSTOP)
        for job in range(6):
            pool.submit(f"{job}", image_file)
        done = [take(pool) for _ in range(5)]
        assert all(decoded.pixels is not None for decoded in done)
        os.kill(stopped, signal.SIGCONT)
        done.append(take(pool))
        assert sorted(decoded.job for decoded in done) == ["0", "1", "2", "3", "4", "5"]


def test_hung_decode_is_ended(image_file):
    """A worker that does not answer in time is ended and replaced."""
    with started(limits=WorkerLimits(seconds=1.0, address_space=2048 << 20)) as pool:
        while not decode_one(pool, image_file).pixels is not None:  # a busy machine may be slow at first
            continue
        (hung,) = worker_pids()
        os.kill(hung, signal.SIGSTOP)
        start = time.monotonic()
        decoded = decode_one(pool, image_file)
        assert 0.9 < time.monotonic() - start < PATIENCE
        assert (decoded.reply.failure, decoded.pixels) == ("DecoderDiedError", None)
        assert hung not in worker_pids()


def test_worker_is_replaced_when_it_has_done_its_share(image_file, monkeypatch):
    """After so many files a worker makes way for a fresh one, without losing a file."""
    decode, pids = DecodeWorker.decode, []

    def decode_and_tell(worker, path):
        pids.append(worker._process.pid)
        return decode(worker, path)

    monkeypatch.setattr(worker_process, "FILES_PER_WORKER", 2)
    monkeypatch.setattr(DecodeWorker, "decode", decode_and_tell)
    with started() as pool:
        for _ in range(5):
            assert decode_one(pool, image_file).pixels is not None
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
    assert len(set(pids)) == 3


def test_no_film_waits_for_a_worker_that_is_replaced(image_file, monkeypatch):
    """Workers are not used up at the same time, and what comes while one is replaced is for the others."""
    monkeypatch.setattr(worker_process, "FILES_PER_WORKER", 4)
    with started(workers=2) as pool:
        start, may_start = pool._start_worker, threading.Event()

        def start_when_told(**options):
            if "share" not in options:  # it is not one of the first
                may_start.wait(PATIENCE)
            return start(**options)

        pool._start_worker = start_when_told
        for job in range(8):
            pool.submit(f"{job}", image_file)
        assert sorted(take(pool).job for _ in range(7)) == [f"{job}" for job in range(7)]
        assert pool.take(0.2) is None
        may_start.set()
        assert take(pool).job == "7"


def test_the_memory_of_a_film_is_used_again(tmp_path):
    """A worker that has its memory asks the kernel for hardly a page more, film after film of the same size."""
    film = write_dicom(tmp_path / "film.dcm", np.zeros((2000, 2000), np.uint16))
    with one_worker() as worker:
        for _ in range(3):
            worker.decode(film)
        before = page_faults(worker._process.pid)
        for _ in range(5):
            worker.decode(film)
        assert page_faults(worker._process.pid) - before < 5 * film.stat().st_size / resource.getpagesize() / 4


def test_a_film_too_large_for_a_used_worker_gets_a_new_one(image_file, monkeypatch):
    """What other films left in a worker's memory is not held against one; alone in a worker, it is.

    Of three workers that had others, one makes way for it.
    """
    decode, pids, is_short = DecodeWorker.decode, set(), threading.Event()

    def decode_with_little_memory(worker, path):
        reply, pixels = decode(worker, path)
        pids.add(worker._process.pid)
        is_too_large = is_short.is_set() and (worker._files > 1 or path.name == "always")
        return (short, None) if is_too_large else (reply, pixels)

    message = "Decoding the file takes more memory than a decode worker may have."
    rejection = Rejection(reason_code=ReasonCode.TOO_LARGE, reason=message)
    short = Reply(seconds=0.1, rejection=rejection, short_of_memory=True)
    monkeypatch.setattr(DecodeWorker, "decode", decode_with_little_memory)
    with started(workers=3) as pool:
        while len(pids) < 3:
            use_all(pool, 3, image_file)
        used = worker_pids()
        is_short.set()
        assert decode_one(pool, image_file).reply.rejection is None
        wait_until_ready(3)
        assert len(worker_pids() - used) == 1
        assert decode_one(pool, image_file.rename(image_file.with_name("always"))).reply.rejection == rejection


def test_environment(monkeypatch):
    """A worker has no secret in its environment, only what its interpreter needs."""
    monkeypatch.setenv("XRAY_BATCH_DATABASE_URL", "postgresql://reader:hunter2@db.example/results")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with one_worker() as worker:
        content = Path(f"/proc/{worker._process.pid}/environ").read_bytes()
    names = {entry.split(b"=")[0].decode() for entry in content.split(b"\0") if entry}
    assert b"hunter2" not in content
    assert names == set(worker_environment(os.environ))
    assert names <= {
        *("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "TMPDIR"),
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"),
        *("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"),
    }


def test_what_a_worker_has_loaded(image_file):
    """A worker has neither torch nor a database driver in its memory, and few open files."""
    with one_worker() as worker:
        assert worker.decode(image_file)[1] is not None
        process = Path(f"/proc/{worker._process.pid}")
        maps = (process / "maps").read_text()
        targets = [str(link.readlink()) for link in (process / "fd").iterdir()]
    assert "numpy" in maps
    for library in ("torch", "sqlite3", "psycopg", "sqlalchemy"):
        assert library not in maps
    assert len(targets) <= 8
    assert not [target for target in targets if target.startswith("/") and not target.startswith(("/dev", "/memfd"))]


def test_limits(image_file):
    """The kernel limits a worker's memory, open files, processes, files written and, per file, CPU time."""
    with one_worker() as worker:
        worker.decode(image_file)
        limits = limits_of(worker._process.pid)
    assert limits["Max address space"] == str(2048 << 20)
    assert limits["Max open files"] == "32"
    assert limits["Max processes"] == "0"
    assert limits["Max core file size"] == "0"
    assert limits["Max file size"] == "0"
    assert 30 <= int(limits["Max cpu time"]) <= 60


def test_the_kernel_ends_it_before_the_service():
    """When memory runs out, the kernel ends a worker rather than the process with the networks, which is larger."""
    with one_worker() as worker:
        assert Path(f"/proc/{worker._process.pid}/oom_score_adj").read_text() == "1000\n"
    assert Path("/proc/self/oom_score_adj").read_text() != "1000\n"


def test_leaving_ends_all_workers(image_file):
    """Leaving the pool ends every worker at once, the idle and the hung ones, and gives up the work inside."""
    with started(workers=2) as pool:
        use_all(pool, 2, image_file)
        stopped = min(worker_pids())
        os.kill(stopped, signal.SIGSTOP)
        for job in range(20):
            pool.submit(f"{job}", image_file)
        take(pool)
        start = time.monotonic()
    assert time.monotonic() - start < LIMITS.seconds
    assert worker_pids() == set()


def test_leaving_ends_what_unpacks(tmp_path, monkeypatch):
    """The end of the service does not wait for an archive, however long that takes."""
    hanging, has_begun = [], threading.Event()

    def start(_unpacking, connection, _archive, _folder):
        hanging.append(subprocess.Popen(["sleep", "3600"], pass_fds=[connection]))
        has_begun.set()
        return hanging[0]

    monkeypatch.setattr(Unpacking, "_start", start)
    with started() as pool:
        pool.submit("archive", make_zip(tmp_path / "study.zip", {"film": b"1"}), tmp_path / "spool")
        assert has_begun.wait(PATIENCE)
    assert [process.returncode for process in hanging] == [-signal.SIGKILL]


def test_what_unpacking_comes_to(tmp_path):
    """It takes the place of the decoder's refusal; a folder that cannot be made is not the archive's fault."""
    archive = make_zip(tmp_path / "study.zip", {"film": b"1"})
    with started() as pool:
        pool.submit("unpacked", archive, tmp_path / "spool")
        pool.submit("not now", archive, archive / "spool")
        unpacked, not_now = (take(pool) for _ in range(2))
    assert [path.name for path in unpacked.unpacked.files] == ["0001-film"]
    assert unpacked.reply.rejection.reason_code is ReasonCode.ZIP_ARCHIVE
    assert (not_now.reply.failure, not_now.reply.transient, not_now.unpacked) == ("NotADirectoryError", True, None)


def test_error_in_the_loop_ends_all_workers(image_file):
    """An exception inside the pool's block comes out of it, and no worker stays behind."""
    with pytest.raises(ZeroDivisionError), started() as pool:
        decode_one(pool, image_file)
        raise ZeroDivisionError
    assert worker_pids() == set()


def test_a_limit_that_cannot_be_set():
    """A worker that may not have, or cannot be given, its limits says that and nothing else."""
    with (
        started(limits=WorkerLimits(seconds=30.0, address_space=1 << 70)) as pool,
        pytest.raises(DecoderDiedError, match="a decode worker did not start: OverflowError"),
    ):
        pool.take(PATIENCE)


def test_worker_that_cannot_start(monkeypatch):
    """Workers that end before they are ready are an error with their last words, not a wait without end."""
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with started() as pool, pytest.raises(DecoderDiedError, match="a decode worker did not start: no message"):
        pool.take(PATIENCE)


@pytest.mark.parametrize(
    ("module", "name"), [(subprocess, "Popen"), (socket, "socketpair"), (tempfile, "TemporaryFile")]
)
def test_system_without_room_for_a_worker(monkeypatch, module, name):
    """A system that refuses another process, or a file that one needs, is an error as well; nothing stays open."""

    def refuse(*arguments, **options):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(module, name, refuse)
    before = set(Path("/proc/self/fd").iterdir())
    with started() as pool, pytest.raises(DecoderDiedError, match=r"cannot be used: .*Resource temporarily"):
        pool.take(PATIENCE)
    assert set(Path("/proc/self/fd").iterdir()) == before


TERMINAL_SCRIPT = """
import signal, sys, time
from pathlib import Path
from xray_batch.pipeline.pool import DecodePool
from xray_batch.pipeline.worker_process import WorkerLimits
from xray_batch.pipeline.worker import INPUT_SPEC

if __name__ == "__main__":
    interrupts = []
    signal.signal(signal.SIGINT, lambda *arguments: interrupts.append(1))
    spec = INPUT_SPEC.validate_json(sys.argv[1])
    with DecodePool(1, spec, WorkerLimits(seconds=60.0, address_space=2048 << 20)) as pool:
        for _ in range(2):
            pool.submit("job", Path(sys.argv[2]))
            decoded = pool.take(60)
            print(decoded.pixels is not None, len(interrupts), flush=True)
            while not interrupts:
                time.sleep(0.02)
"""


def test_interrupt_from_the_terminal(image_file, tmp_path):
    """Ctrl-C reaches the command alone: its workers are in sessions of their own and finish their file."""
    script = tmp_path / "command.py"
    script.write_text(TERMINAL_SCRIPT)
    spec = pool_module.INPUT_SPEC.dump_json(SPEC).decode()
    with subprocess.Popen(
        [sys.executable, script, spec, image_file],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,
    ) as command:
        try:
            assert command.stdout.readline() == "True 0\n"
            (worker,) = worker_pids(command.pid)
            assert os.getsid(worker) == worker != os.getsid(command.pid)
            os.killpg(command.pid, signal.SIGINT)
            assert command.stdout.readline() == "True 1\n"
            assert command.wait(PATIENCE) == 0
        finally:
            command.kill()
    assert not is_running(worker)


class InterruptedCall(BaseException):
    """Stands for the KeyboardInterrupt of Ctrl-C, which would end the whole run of tests if it came too late."""


def interrupt_calls(line, tries):
    """Put into a line until an interrupt comes in the middle of it, again and again; return after how many it hangs."""

    def interrupt(*_):
        raise InterruptedCall

    before = signal.signal(signal.SIGVTALRM, interrupt)
    try:
        for number in range(tries):
            try:
                signal.setitimer(signal.ITIMER_VIRTUAL, 1e-4)
                while True:
                    line.put("item", urgent=False)
            except InterruptedCall:
                other = threading.Thread(target=line.put, args=("last",), kwargs={"urgent": True}, daemon=True)
                other.start()
                other.join(5)
                if other.is_alive():
                    return number
    finally:
        signal.signal(signal.SIGVTALRM, before)
    return None


def test_interrupt_in_the_middle_of_a_call():
    """Ctrl-C while a file is handed over leaves no lock held, at which the workers and the end would wait for ever."""
    line = pool_module._Line()
    assert interrupt_calls(line, 100) is None
    assert line.get(0) == "last"


def test_worker_ends_with_its_parent(image_file, tmp_path):
    """Workers of a command that is killed end by themselves."""
    script = tmp_path / "command.py"
    script.write_text(TERMINAL_SCRIPT)
    spec = pool_module.INPUT_SPEC.dump_json(SPEC).decode()
    with subprocess.Popen(
        [sys.executable, script, spec, image_file],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    ) as command:
        assert command.stdout.readline() == "True 0\n"
        (worker,) = worker_pids(command.pid)
        command.kill()
    deadline = time.monotonic() + PATIENCE
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(worker)


def test_warnings_survive_the_way(tmp_path):
    """Warnings come over as the records that they were."""
    path = tmp_path / "color.png"
    Image.fromarray((RAMP.stored >> 4).astype(np.uint8)).convert("RGB").save(path)
    with started() as pool:
        assert decode_one(pool, path).reply.warnings == (ImageWarning.GRAY_AS_COLOR,)


def test_what_is_urgent_is_decoded_first(image_file):
    """It goes before what was handed over earlier and still waits for a worker."""
    with started() as pool:
        for job in ("first", "second"):
            pool.submit(job, image_file)
        pool.submit("urgent", image_file, urgent=True)
        assert [take(pool).job for _ in range(3)] == ["urgent", "first", "second"]


def test_what_is_urgent_is_taken_first(image_file):
    """Decoded, it goes before what was decoded earlier and waits to be taken: the networks may be the narrow place."""
    with started() as pool:
        for job in ("first", "second", "urgent"):
            pool.submit(job, image_file, urgent=job == "urgent")
        deadline = time.monotonic() + PATIENCE
        while pool._decoded._ready.qsize() < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        pool.submit("late", image_file, urgent=True)
        assert take(pool).job == "urgent"
        while pool._decoded._ready.qsize() < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [take(pool).job for _ in range(3)] == ["late", "first", "second"]

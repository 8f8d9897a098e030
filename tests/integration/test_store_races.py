"""Threads and processes that use one database at the same time, on both engines."""

import collections
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TypeVar

import pytest
from store_records import make_analysed, make_arrival, make_model, make_rejected

from xray_batch.records import Accounting, Disposition
from xray_batch.revisions import open_database
from xray_batch.store import AnswerSelection, Store

REPOSITORY = Path(__file__).resolve().parents[2]

T = TypeVar("T")

MODEL = make_model()

#: A worker process: leases and answers until nothing is left, and tells how many answers counted.
WORKER = """
import json, sys
from store_records import make_analysed, make_model
from xray_batch.revisions import open_database
from xray_batch.store import AnswerSelection, Store

model = make_model()
store = Store(open_database(sys.argv[1]))
sys.stdin.read()
leased, accepted = [], 0
while leases := store.lease(limit=3, lease_seconds=60):
    leased += [lease.content_sha256 for lease in leases]
    accepted += len(store.finish([(lease, make_analysed()) for lease in leases], model))
print(json.dumps({"leased": leased, "accepted": accepted}))
"""


@pytest.fixture
def store(database_url):
    """Store on a fresh database that knows one model."""
    engine = open_database(database_url)
    store = Store(engine)
    store.register_model(MODEL)
    yield store
    engine.dispose()


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run calls in threads that start together."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


class TestRaces:
    """Every function against itself and against the others."""

    def test_lease(self, store):
        """No content is leased twice by threads that lease at the same time."""
        store.add_arrivals([make_arrival(f"{number}") for number in range(40)], MODEL)

        def lease_all():
            leased = []
            while leases := store.lease(limit=2, lease_seconds=60):
                leased += [lease.content_sha256 for lease in leases]
            return leased

        leased = list(chain.from_iterable(at_once([lease_all] * 4)))
        assert len(leased) == len(set(leased)) == 40

    def test_worker_processes(self, store, database_url):
        """Processes share the work: each content is leased once and answered once."""
        store.add_arrivals([make_arrival(f"{number}") for number in range(60)], MODEL)
        path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
        workers = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", WORKER, database_url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
            )
            for _ in range(3)
        ]
        for worker in workers:
            worker.stdin.close()
            worker.stdin = None
        told = [json.loads(worker.communicate(timeout=120)[0]) for worker in workers]
        leased = [sha256 for answer in told for sha256 in answer["leased"]]
        assert len(leased) == len(set(leased)) == 60
        assert sum(answer["accepted"] for answer in told) == 60
        assert store.accounting() == Accounting(arrivals=60, results=60, rejected=0, duplicates=0, pending=0, lost=0)

    def test_expired_leases(self, store):
        """When every lease expires at once and many hold a content, one answer counts."""
        store.add_arrivals([make_arrival(f"{number}") for number in range(10)], MODEL)

        def work():
            accepted = []
            for _ in range(4):
                leases = store.lease(limit=10, lease_seconds=0)
                held = store.finish([(lease, make_analysed()) for lease in leases], MODEL)
                accepted += [lease.content_sha256 for lease in held]
            return accepted

        accepted = list(chain.from_iterable(at_once([work] * 4)))
        assert len(accepted) == len(set(accepted)) == 10
        assert store.accounting().results == 10

    def test_add_same_contents(self, store):
        """Of arrivals of one content recorded at the same time, in any order, one is work."""
        contents = [f"{number}" for number in range(10)]

        def add(seed):
            arrivals = [make_arrival(content) for content in contents]
            random.Random(seed).shuffle(arrivals)
            names = {arrival.arrival_id: arrival.content_sha256 for arrival in arrivals}
            dispositions = store.add_arrivals(arrivals, MODEL)
            return [(names[key], disposition) for key, disposition in dispositions.items()]

        told = chain.from_iterable(at_once([lambda seed=seed: add(seed) for seed in range(4)]))
        work = collections.Counter(sha256 for sha256, disposition in told if disposition is Disposition.WORK)
        assert len(work) == 10
        assert set(work.values()) == {1}
        assert store.accounting() == Accounting(arrivals=40, results=0, rejected=0, duplicates=30, pending=10, lost=0)

    def test_add_same_arrivals(self, store):
        """The same spool folders recorded by several processes are recorded once, with one answer."""
        arrivals = [make_arrival(f"{number % 5}") for number in range(10)]
        told = at_once([lambda: store.add_arrivals(arrivals, MODEL)] * 4)
        assert all(dispositions == told[0] for dispositions in told)
        assert store.accounting().arrivals == 10

    def test_in_place_against_service(self, store):
        """A batch in place and a service on the same contents leave one result each, and balance."""
        contents = [f"{number}" for number in range(10)]

        def batch():
            store.record_in_place([(make_arrival(content), make_analysed()) for content in contents], MODEL)

        def service():
            store.add_arrivals([make_arrival(content) for content in reversed(contents)], MODEL)
            while leases := store.lease(limit=2, lease_seconds=60):
                store.finish([(lease, make_rejected()) for lease in leases], MODEL)

        at_once([batch, service, service, batch])
        service()  # what others had locked when it looked
        accounting = store.accounting()
        assert accounting.balances
        assert (accounting.arrivals, accounting.pending, accounting.duplicates) == (50, 0, 40)
        assert len(list(store.results())) == 10

    def test_requeue(self, store):
        """Requeued by several at once and against a service, a content is queued once and answered once each time."""
        arrivals = [make_arrival(f"{number}") for number in range(20)]
        store.add_arrivals(arrivals, MODEL)
        store.finish([(lease, make_rejected()) for lease in store.lease(limit=20, lease_seconds=60)], MODEL)
        store.mark_filed({arrival.arrival_id: f"rejected/{arrival.arrival_id}" for arrival in arrivals})
        answers = store.stored_answers(store.select_answers(AnswerSelection()))
        chosen = [(answer, answer.originals[0].arrival_id) for answer in answers]

        def again(seed):
            shuffled = random.Random(seed).sample(chosen, len(chosen))
            return sum(len(store.requeue(shuffled[start : start + 5])) for start in range(0, 20, 5))

        def service():
            accepted = 0
            for _ in range(20):
                leases = store.lease(limit=3, lease_seconds=60)
                accepted += len(store.finish([(lease, make_analysed()) for lease in leases], MODEL))
                store.mark_filed({each.arrival_id: f"processed/{each.arrival_id}" for each in store.unfiled(20)})
            return accepted

        queued = [lambda seed=seed: again(seed) for seed in range(3)]
        told = at_once([*queued, service, service])
        while more := service():
            told[-1] += more
        assert sum(told[:3]) == sum(told[3:]) >= 20
        assert store.accounting() == Accounting(arrivals=20, results=20, rejected=0, duplicates=0, pending=0, lost=0)
        assert len(list(store.results())) == 20
        assert store.unfiled(20) == []

    def test_register_model(self, store):
        """A model registered by several processes at the same time is one model."""
        newer = make_model("2.0.0")
        at_once([lambda: store.register_model(newer)] * 4)
        store.record_in_place([(make_arrival(), make_analysed())], newer)
        assert [row["model_id"] for row in store.results()] == [newer.model_id]

    def test_filing(self, store):
        """Sweepers of several processes mark the same arrivals without an error or a second event."""
        arrivals = [make_arrival() for _ in range(10)]
        store.add_arrivals(arrivals, MODEL)
        paths = {entry.arrival_id: "duplicates/image.dcm" for entry in store.unfiled(20)}
        at_once([lambda: store.mark_filed(paths)] * 4)
        assert len(paths) == 9
        assert store.unfiled(20) == []

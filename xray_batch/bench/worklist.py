"""How long the server takes for the pages of the worklist, on a database of many results."""

import asyncio
import datetime as dt
import hashlib
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from starlette.types import ASGIApp, Message, Scope

from xray_batch.bench.measures import Times, WorklistTimes
from xray_batch.errors import BenchmarkError, ReasonCode
from xray_batch.intake import Folders
from xray_batch.records import (
    Arrival,
    Finding,
    Finished,
    ImageHeader,
    ModelIdentity,
    Outcome,
    Prediction,
    Rejection,
    SourceFormat,
)
from xray_batch.revisions import open_database
from xray_batch.settings import Settings, load_settings
from xray_batch.store import Store
from xray_batch.web.access import AccessControl
from xray_batch.web.application import make_application
from xray_batch.web.site import open_site

#: What a reader asks for: by what it is called, the parameters of the worklist.
REQUESTS: Final[dict[str, dict[str, str]]] = {
    "newest first": {},
    "most suspicious first": {"order": "most_suspicious"},
    "one outcome": {"outcome": "indeterminate"},
    "one outcome, most suspicious first": {"outcome": "pneumonia", "order": "most_suspicious"},
    "one outcome, least suspicious first": {"outcome": "pneumonia", "order": "least_suspicious"},
    "part of a patient ID, few": {"identifier": "P00042"},
    "part of a patient ID, many": {"identifier": "1"},
    "part of a patient ID, none": {"identifier": "nobody"},
    "modality and view": {"modality": "CR", "view": "AP"},
    "a modality that there is not": {"modality": "MG"},
    "a range of probability": {"min": "0.4", "max": "0.5"},
    "a reason": {"reason": "lateral_view"},
    "the last two days": {"since": (dt.datetime.now().astimezone().date() - dt.timedelta(days=1)).isoformat()},
}

#: Results stored in one transaction.
_GROUP: Final = 500

#: Apart from each other: a hundred thousand results make a year.
_BETWEEN: Final = dt.timedelta(minutes=5)

_LOW, _HIGH = 0.37, 0.83


def measure_worklist(results: int, repeats: int, done: Callable[[int], None]) -> Iterator[WorklistTimes]:
    """Make a SQLite database of so many results, and time what the server does for each of :data:`REQUESTS`.

    From the request to the last byte of the page, in this process: without a network and without the browser.
    """
    with tempfile.TemporaryDirectory(prefix="xray-batch-bench-") as name:
        settings = load_settings({"home": Path(name)}, environment={})
        with closing(_open(settings)) as store:
            _fill(store, results, done)
        with open_site(settings, Folders(settings.home), partial(_open, settings)) as site:
            application = make_application(site, AccessControl(settings))
            for request, parameters in REQUESTS.items():
                seconds = asyncio.run(_time(application, urlencode(parameters), repeats))
                yield WorklistTimes(request=request, results=results, server=Times.of(seconds))


def _open(settings: Settings) -> Store:
    return Store(open_database(settings.resolved_database_url))


async def _time(application: ASGIApp, query: str, repeats: int) -> list[float]:
    await _get(application, query)  # templates are compiled and pages of the database cached
    return [await _get(application, query) for _ in range(repeats)]


async def _get(application: ASGIApp, query: str) -> float:
    """Ask for the worklist, and return after how many seconds all of it was there."""
    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": "/worklist",
        "raw_path": b"/worklist",
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost")],
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message.get("status", 200) != 200:
            raise BenchmarkError(f"the worklist answered with status {message['status']}")

    start = time.perf_counter()
    await application(scope, receive, send)
    return time.perf_counter() - start


def _fill(store: Store, results: int, done: Callable[[int], None]) -> None:
    """Store made-up answers: a third of a million patients, a twentieth not analysed."""
    model = ModelIdentity(model_id="bench", model_sha256="a" * 64, preprocess_sha256="b" * 64, manifest="{}")
    store.register_model(model)
    made = partial(_make, random.Random(0), dt.datetime.now(dt.UTC), results)
    for start in range(0, results, _GROUP):
        group = range(start, min(start + _GROUP, results))
        store.record_in_place([made(number) for number in group], model)
        done(len(group))


def _make(dice: random.Random, now: dt.datetime, results: int, number: int) -> tuple[Arrival, Finished]:
    at = now - (results - number) * _BETWEEN
    arrival = Arrival(
        arrival_id=uuid.UUID(int=number),
        source_name=f"film-{number}.dcm",
        content_sha256=hashlib.sha256(str(number).encode()).hexdigest(),
        size=1,
        received_at=at,
    )
    answer = _predict(dice.betavariate(0.4, 0.6)) if dice.random() > 0.05 else _reject(dice)
    header = ImageHeader(
        source_format=SourceFormat.DICOM,
        study_instance_uid=f"1.2.3.{number // 2}",
        series_instance_uid=f"1.2.3.{number // 2}.1",
        sop_instance_uid=f"1.2.3.{number}.1.1",
        patient_id=f"P{dice.randrange(results // 3 + 1):07}",
        accession_number=f"A{number:08}",
        study_date=at.date(),
        modality=dice.choice(("CR", "DX", "DX", "DX")),
        view_position=dice.choice(("AP", "PA", None)),
    )
    return arrival, Finished(
        answer=answer, header=header, rendering="bench", warnings=(), classified_at=at, processing_seconds=0.1
    )


def _predict(p_pneumonia: float) -> Prediction:
    outcome = Outcome.PNEUMONIA if p_pneumonia >= _HIGH else Outcome.INDETERMINATE
    return Prediction(
        outcome=Outcome.NORMAL if p_pneumonia < _LOW else outcome,
        probabilities={
            Finding.NORMAL: 1 - p_pneumonia,
            Finding.BACTERIAL_PNEUMONIA: p_pneumonia / 2,
            Finding.VIRAL_PNEUMONIA: p_pneumonia / 2,
            Finding.COVID19_PNEUMONIA: 0.0,
        },
        member_probabilities={"resnet34": p_pneumonia, "resnet50": p_pneumonia},
        disagreement=0.1,
        threshold_low=_LOW,
        threshold_high=_HIGH,
        heat_in_thorax=0.7,
        input_mean=0.5,
        input_std=0.25,
    )


def _reject(dice: random.Random) -> Rejection:
    code = dice.choice((ReasonCode.LATERAL_VIEW, ReasonCode.NOT_A_CHEST, ReasonCode.TRUNCATED))
    return Rejection(reason_code=code, reason="made up")

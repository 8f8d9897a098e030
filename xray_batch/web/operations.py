"""Whether every file is accounted for, how the service is, how much it does and how fast; nothing about patients."""

import datetime as dt
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from xray_batch.errors import ReasonCode
from xray_batch.pipeline.room import Room, disks_of, look_for_room
from xray_batch.pipeline.service_state import read_service_state
from xray_batch.pipeline.waiting import WaitingFiles, count_spool, count_waiting
from xray_batch.records import HourFigures, Outcome, Times
from xray_batch.web.charts import Chart, Series, stacked_bars, time_lines
from xray_batch.web.live import LiveMetric, read_metrics, value_of
from xray_batch.web.site import Site, render, site_of
from xray_batch.web.trends import QUANTITIES, draw_trends, find_trends
from xray_batch.web.words import OUTCOMES

#: Ranges of the charts, in hours, as the URL names them; the first is what is shown at first.
RANGES: Final[Mapping[str, int]] = {"24h": 24, "7d": 7 * 24}

_DAY: Final = dt.timedelta(hours=24)
_HOUR: Final = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """An hour of the charts and of the tables beside them."""

    begins_at: dt.datetime  #: in the time zone of this machine
    figures: HourFigures | None  #: None without results


def operations(request: Request) -> Response:
    """Show how things are now, and how they went in the range that the URL names."""
    chosen = request.query_params.get("range") or next(iter(RANGES))
    if chosen not in RANGES:
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"range is {chosen[:100]!r}, expected one of {', '.join(RANGES)}.")
    site = site_of(request)
    now = dt.datetime.now(dt.UTC)
    hours = _hours(site, now, RANGES[chosen])
    metrics = read_metrics(site.settings.health_address, site.folders)
    facts = {
        "now": now,
        "range": chosen,
        "ranges": tuple(RANGES),
        **_work(site, now, metrics),
        "state": read_service_state(site.folders),
        "room": _room(site),
        "hours": hours,
        "charts": _charts(hours),
        "reasons": site.store.count_reasons(),
        "recent_reasons": site.store.count_reasons(now - RANGES[chosen] * _HOUR),
        "known_reasons": frozenset(ReasonCode),
        **_trends(site, now),
        "metrics": metrics,
        "health_address": site.settings.health_address,
    }
    return render(request, "operations.html.jinja", facts)


def _trends(site: Site, now: dt.datetime) -> Mapping[str, object]:
    trends = site.trends.get(lambda: find_trends(site.store, now))
    return {"trends": trends, "trend_chart": trends and draw_trends(trends), "quantities": QUANTITIES}


def _work(site: Site, now: dt.datetime, metrics: Sequence[LiveMetric] | None) -> Mapping[str, object]:
    """Return the account, what waits, and the answers of a day."""
    queue = site.store.queue_status()
    oldest = queue.oldest_received_at
    waited = [(now - oldest).total_seconds()] if oldest else []
    waited += [value_of(metrics, "xray_oldest_unprocessed_seconds") or 0.0]  # it knows of files in the inbox, too
    return {
        "account": site.store.accounting(),
        "queue": queue,
        "oldest_seconds": max(waited) or None,
        "waiting": _waiting(site, metrics),
        "recent": site.store.recent_results(now - _DAY),
        "engine": site.store.describe_engine(),
    }


def _waiting(site: Site, metrics: Sequence[LiveMetric] | None) -> WaitingFiles:
    """Count the files that wait; the inbox, which may be a share that hangs, only where the service does not tell."""
    inbox = value_of(metrics, "xray_inbox_files")
    if inbox is None:
        return count_waiting(site.folders)
    return WaitingFiles(inbox=int(inbox), left_alone=None, spool=count_spool(site.folders))


def _room(site: Site) -> Room | None:
    """Measure the disks; None where there is no such folder, as beside a PostgreSQL."""
    with suppress(OSError):
        return look_for_room(disks_of(site.settings), site.settings.disk_floor_mb)
    return None


def _hours(site: Site, now: dt.datetime, count: int) -> Sequence[Hour]:
    """Return the last hours, the one that is not over included."""
    last = now.replace(minute=0, second=0, microsecond=0)
    begins = [last - number * _HOUR for number in reversed(range(count))]
    figures = site.hours.read(site.store, begins)
    return [Hour(begins_at=begin.astimezone(), figures=each) for begin, each in zip(begins, figures, strict=True)]


def _charts(hours: Sequence[Hour]) -> Sequence[Chart]:
    begins = [hour.begins_at for hour in hours]
    figures = [hour.figures for hour in hours]
    outcomes = [
        Series(
            name=OUTCOMES[outcome],
            style=outcome.value,
            values=[each.outcomes[outcome] if each else None for each in figures],
        )
        for outcome in Outcome
    ]
    processing = [each.processing if each else None for each in figures]
    answering = [each.answering if each else None for each in figures]
    return (
        stacked_bars("throughput", "Results per hour", begins, outcomes, "results"),
        time_lines("processing", "Time to process one file", begins, _percentiles(processing)),
        time_lines("answering", "Time from received to answered", begins, _percentiles(answering)),
    )


def _percentiles(times: Sequence[Times | None]) -> Sequence[Series]:
    return (
        Series(name="95 % no longer than", style="p95", values=[each.p95 if each else None for each in times]),
        Series(name="half no longer than", style="median", values=[each.median if each else None for each in times]),
    )

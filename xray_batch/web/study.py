"""The study page: one film, what was answered and why, where the networks look, and what has happened to it."""

from dataclasses import dataclass, replace
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from xray_batch.bundle_folders import folder_with_manifest
from xray_batch.records import (
    Outcome,
    PageKey,
    ResultOrder,
    ResultQuery,
    ResultRecord,
    StoredModel,
    StoredResult,
)
from xray_batch.store import Store
from xray_batch.web.film import find_result
from xray_batch.web.manifests import fact_of
from xray_batch.web.site import hides_identifiers, render, site_of
from xray_batch.web.words import explain_outcome
from xray_batch.web.worklist import read_query

#: Of the same content or study, and of the audit trail, that a page shows.
_OTHERS: Final = 20
_EVENTS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The results before and behind one in the worklist that the reader comes from."""

    previous: int | None
    next: int | None
    query: str  #: of the worklist, with its question mark


def study(request: Request) -> Response:
    """Show one result."""
    site, stored = site_of(request), find_result(request)
    store, record = site.store, stored.record
    model = store.stored_model(record.model_sha256)
    limit = _disagreement_limit(model)
    facts = {
        "record": record,
        "computation": stored.computation,
        "model_version": fact_of(model, "version"),
        "limit": limit,
        "sentence": explain_outcome(record, limit),
        "heat_obstacle": _heat_obstacle(request, stored),
        "trail": store.audit_trail(record.content_sha256, _EVENTS),
        "same_content": _others(store, record, ResultQuery(content_sha256=record.content_sha256)),
        "same_study": _same_study(store, record),
        "neighbours": _neighbours(request, record),
    }
    return render(request, "study.html.jinja", facts)


def _heat_obstacle(request: Request, stored: StoredResult) -> str | None:
    """Return why there can be no heat map; None as far as that is known before the original is looked for."""
    site, record = site_of(request), stored.record
    if record.outcome is Outcome.NOT_ANALYSED:
        return "No network saw the film."
    if folder_with_manifest(record.model_sha256, site.settings.bundle, site.folders.bundles) is None:
        return f"The bundle {record.model_id}, which gave the answer, is not installed here."
    return None


def _same_study(store: Store, record: ResultRecord) -> list[ResultRecord]:
    """Return results of other files of the same study."""
    if not record.study_instance_uid:
        return []
    found = _others(store, record, ResultQuery(study_instance_uid=record.study_instance_uid))
    return [other for other in found if other.content_sha256 != record.content_sha256]


def _others(store: Store, record: ResultRecord, query: ResultQuery) -> list[ResultRecord]:
    found = store.page(replace(query, order=ResultOrder.NEWEST), _OTHERS).records
    return [other for other in found if other.result_id != record.result_id]


def _neighbours(request: Request, record: ResultRecord) -> Neighbours:
    """Find what comes before and behind in the worklist; its filter is in the URL."""
    if hides_identifiers(request) and request.query_params.get("identifier"):
        return Neighbours(previous=None, next=None, query="")  # whose list it was must not show
    store, query = site_of(request).store, read_query(request)
    by_time = query.order in (ResultOrder.NEWEST, ResultOrder.OLDEST)
    key = PageKey(value=record.classified_at if by_time else record.p_normal, result_id=record.result_id)
    before = store.page(query, 1, before=key).records
    behind = store.page(query, 1, after=key).records
    return Neighbours(
        previous=before[0].result_id if before else None,
        next=behind[0].result_id if behind else None,
        query=f"?{request.url.query}" if request.url.query else "",
    )


def _disagreement_limit(model: StoredModel | None) -> float | None:
    limit = fact_of(model, "disagreement_limit")
    return float(limit) if isinstance(limit, int | float) else None

"""The film of a result and its heat map, as the study page's script asks for them."""

import base64
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from xray_batch.errors import DatabaseRefusedError, DatabaseUnavailableError
from xray_batch.heat_map import THORAX
from xray_batch.intake import find_original
from xray_batch.logs import get_logger
from xray_batch.overlay import INFERNO
from xray_batch.pipeline.heat_maps import NoHeat
from xray_batch.pipeline.originals import recorded_places
from xray_batch.pipeline.pictures import Absence, NoPicture
from xray_batch.records import StoredResult
from xray_batch.store import Obstacle
from xray_batch.web.access import is_from_here
from xray_batch.web.site import Site, hides_identifiers, site_of, user_of
from xray_batch.web.words import ABSENCES, PRUNED

#: To ask again in a moment may help.
_PASSING: Final = frozenset({Absence.BUSY, Absence.DIED})


def find_result(request: Request) -> StoredResult:
    """Return the result that a path names.

    Raises
    ------
    HTTPException
        404 if there is none.
    """
    stored = site_of(request).store.stored_result(request.path_params["result_id"])
    if stored is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such result.")
    return stored


def image(request: Request) -> Response:
    """Send the rendered film: little-endian 16-bit values, row by row, once the audit trail says who is shown it."""
    if not is_from_here(request):  # a page of somebody else must not write false events
        raise HTTPException(HTTPStatus.FORBIDDEN, "A film is shown on its own page.")
    site, stored = site_of(request), find_result(request)
    if request.method == "HEAD":
        return Response()  # nothing is shown
    record = stored.record
    picture = site.pictures.render(record.content_sha256, _places(site, stored))
    if isinstance(picture, NoPicture):
        return _explain_absence(request, stored, picture)
    try:
        site.store.add_view(record.content_sha256, user_of(request).name)
    except (DatabaseUnavailableError, DatabaseRefusedError):
        get_logger().warning("a film is not shown: the view cannot be written down")
        return _nothing("Who is shown a film is written down first, and the database does not take that now.", True)
    facts = picture.facts
    headers = {
        "X-Rows": str(facts.rows),
        "X-Columns": str(facts.columns),
        "X-Original-Rows": str(facts.original_rows),
        "X-Original-Columns": str(facts.original_columns),
        "X-Content": " ".join(f"{share:.6f}" for share in facts.content),
    }
    return Response(picture.pixels, media_type="application/octet-stream", headers=headers)


def heat(request: Request) -> Response:
    """Send the heat map as JSON; the map is base64 of one byte for each pixel of the model input."""
    site, stored = site_of(request), find_result(request)
    made = site.heat_maps.explain(stored, _places(site, stored))
    if isinstance(made, NoHeat):
        reason = f" {made.reason}" if made.reason and not hides_identifiers(request) else ""
        return _nothing(made.text + reason, made.is_passing)
    return JSONResponse(
        {
            "rows": made.rows,
            "columns": made.columns,
            "levels": base64.b64encode(made.levels).decode("ascii"),
            "is_trimmed": made.is_trimmed,
            "heat_in_thorax": made.thorax_share,
            "even_share": THORAX.area,
            "colors": INFERNO.astype(int).tolist(),
        }
    )


def _places(site: Site, stored: StoredResult) -> Iterator[Path]:
    """Yield where the original may be: where the database says, else where it is on its way to."""
    yield from recorded_places(stored, site.folders.home)
    for answer in site.store.stored_answers([stored.record.result_id]):
        for original in answer.originals:
            with suppress(OSError):
                place = find_original(site.folders, original)
                if place is not None:
                    yield place


def _explain_absence(request: Request, stored: StoredResult, missing: NoPicture) -> Response:
    text = ABSENCES[missing.absence]
    if missing.absence is Absence.GONE:
        (answer,) = site_of(request).store.stored_answers([stored.record.result_id])
        text = PRUNED if answer.obstacle is Obstacle.PRUNED and not stored.in_place_names else text
    if missing.reason and not hides_identifiers(request):  # it may quote the header
        text = f"{text} {missing.reason}"
    return _nothing(text, missing.absence in _PASSING)


def _nothing(text: str, is_passing: bool) -> Response:
    """Say why there is nothing to see."""
    status = HTTPStatus.SERVICE_UNAVAILABLE if is_passing else HTTPStatus.NOT_FOUND
    answer: Mapping[str, object] = {"reason": text, "is_passing": is_passing}
    return JSONResponse(answer, status_code=status)

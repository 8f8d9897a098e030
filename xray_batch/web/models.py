"""The model card of a bundle that gave answers."""

from contextlib import suppress
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from xray_batch.bundle_folders import MODEL_CARD_NAME, folder_with_manifest
from xray_batch.web.markdown import read_blocks
from xray_batch.web.site import render, site_of


def model_card(request: Request) -> Response:
    """Show the card of an installed bundle; of another one the facts that the database has kept."""
    site, sha256 = site_of(request), request.path_params["model_sha256"]
    model = site.store.stored_model(sha256)
    if model is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "No model with this SHA-256 has given an answer.")
    folder = folder_with_manifest(sha256, site.settings.bundle, site.folders.bundles)
    card = None
    if folder is not None:
        with suppress(OSError):
            card = read_blocks((folder / MODEL_CARD_NAME).read_text(encoding="utf-8", errors="replace"))
    return render(request, "model.html.jinja", {"model": model, "card": card})

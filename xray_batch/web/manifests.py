"""Manifests as the database keeps them: read without loading the bundle, and torch with it."""

import json
from collections.abc import Mapping

from xray_batch.records import StoredModel


def fact_of(model: StoredModel | None, name: str) -> object:
    """Return a fact of a stored manifest, whatever version wrote it; None if it has no such fact."""
    try:
        manifest = json.loads(model.manifest) if model else None
    except ValueError:
        return None
    return manifest.get(name) if isinstance(manifest, Mapping) else None

"""Preprocessing facts for tests."""

from typing import Any

from xray_batch.records import InputSpec
from xray_batch.standardize import SQUASH_BILINEAR_ANTIALIAS


def make_spec(rows: int = 48, columns: int = 40, **changes: Any) -> InputSpec:
    """Return a specification that takes nothing away from a picture, unless `changes` say so."""
    facts: dict[str, Any] = {
        "mean": 0.4375,
        "std": 0.1875,
        "resize": SQUASH_BILINEAR_ANTIALIAS,
        "trim_borders": False,
        "stretch": None,
        "smooth": False,
        "rendering_version": 1,
    }
    return InputSpec(rows=rows, columns=columns, **(facts | changes))

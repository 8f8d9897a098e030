"""Tables, views and triggers of the database: the only source for Alembic.

A change here needs a new file in `migrations/versions`.
"""

from xray_batch.schema.tables import (
    HAS_ORIGINAL,
    IS_OPEN,
    IS_PRUNING,
    IS_UNFILED,
    ArrivalRow,
    Base,
    ContentRow,
    EventRow,
    InstanceRow,
    ModelRow,
    ResultRow,
    TallyRow,
    UtcDateTime,
)
from xray_batch.schema.views import ACCOUNTING, RESULTS, create_view, missing_views_and_triggers

__all__ = [
    "ACCOUNTING",
    "HAS_ORIGINAL",
    "IS_OPEN",
    "IS_PRUNING",
    "IS_UNFILED",
    "RESULTS",
    "ArrivalRow",
    "Base",
    "ContentRow",
    "EventRow",
    "InstanceRow",
    "ModelRow",
    "ResultRow",
    "TallyRow",
    "UtcDateTime",
    "create_view",
    "missing_views_and_triggers",
]

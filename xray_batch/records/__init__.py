"""Immutable records handed from one stage to the next.

Arrays inside records are read-only by convention: the stage that receives one does not change it.
"""

from xray_batch.records.answers import (
    PROBABILITY_COLUMNS,
    AgeRange,
    Computation,
    Finding,
    Finished,
    GateCheck,
    HeatMap,
    ModelIdentity,
    Outcome,
    Prediction,
    Rejection,
    Scaling,
)
from xray_batch.records.drift import DRIFT_COLUMNS, DriftReference, ReferenceBins, Trend
from xray_batch.records.images import GrayscaleImage, ImageHeader, ImageWarning, InputSpec, ModelInput, SourceFormat
from xray_batch.records.results import (
    RESULT_COLUMNS,
    Accounting,
    EngineFacts,
    OutcomeCounts,
    PageKey,
    QueueStatus,
    RecentResults,
    ResultOrder,
    ResultPage,
    ResultQuery,
    ResultRecord,
    StoredResult,
)
from xray_batch.records.work import Arrival, Disposition, Lease, Original, Unfiled

__all__ = [
    "DRIFT_COLUMNS",
    "PROBABILITY_COLUMNS",
    "RESULT_COLUMNS",
    "Accounting",
    "AgeRange",
    "Arrival",
    "Computation",
    "Disposition",
    "DriftReference",
    "EngineFacts",
    "Finding",
    "Finished",
    "GateCheck",
    "GrayscaleImage",
    "HeatMap",
    "ImageHeader",
    "ImageWarning",
    "InputSpec",
    "Lease",
    "ModelIdentity",
    "ModelInput",
    "Original",
    "Outcome",
    "OutcomeCounts",
    "PageKey",
    "Prediction",
    "QueueStatus",
    "RecentResults",
    "ReferenceBins",
    "Rejection",
    "ResultOrder",
    "ResultPage",
    "ResultQuery",
    "ResultRecord",
    "Scaling",
    "SourceFormat",
    "StoredResult",
    "Trend",
    "Unfiled",
]

"""Records for the store's tests, with nothing in them that a test does not say."""

import datetime as dt
import hashlib
import uuid

from xray_batch.errors import ReasonCode
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

START = dt.datetime(2026, 3, 1, 8, 0, tzinfo=dt.UTC)


def sha256_of(content: str) -> str:
    """Return the SHA-256 of a content that exists only by name."""
    return hashlib.sha256(content.encode()).hexdigest()


def make_model(version: str = "1.0.0") -> ModelIdentity:
    """Return a model; another version is another model."""
    return ModelIdentity(
        model_id=f"test-{version}",
        model_sha256=sha256_of(f"model {version}"),
        preprocess_sha256=sha256_of("preprocessing"),
        manifest=f'{{"version": "{version}"}}',
    )


def make_arrival(
    content: str = "content", *, minute: int = 0, source_name: str = "study/image.dcm", is_urgent: bool = False
) -> Arrival:
    """Return a new arrival of a content."""
    return Arrival(
        arrival_id=uuid.uuid4(),
        source_name=source_name,
        content_sha256=sha256_of(content),
        size=len(content),
        received_at=START + dt.timedelta(minutes=minute),
        is_urgent=is_urgent,
    )


def make_analysed(
    *,
    p_normal: float = 0.25,
    outcome: Outcome = Outcome.PNEUMONIA,
    patient_id: str = "P1",
    study_instance_uid: str = "1.2.3",
    sop_instance_uid: str | None = "1.2.3.4.5",
    minute: int = 0,
    input_mean: float = 0.5,
) -> Finished:
    """Return the answer of an analysed DICOM image."""
    rest = (1.0 - p_normal) / 3
    return Finished(
        answer=Prediction(
            outcome=outcome,
            probabilities={
                Finding.NORMAL: p_normal,
                Finding.BACTERIAL_PNEUMONIA: rest,
                Finding.VIRAL_PNEUMONIA: rest,
                Finding.COVID19_PNEUMONIA: rest,
            },
            disagreement=0.125,
            threshold_low=0.25,
            threshold_high=0.75,
            heat_in_thorax=0.625,
            member_probabilities={"resnet34": 0.8125, "resnet50": 0.6875},
            input_mean=input_mean,
            input_std=0.25,
        ),
        header=ImageHeader(
            source_format=SourceFormat.DICOM,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
            sop_instance_uid=sop_instance_uid,
            study_instance_uid=study_instance_uid,
            series_instance_uid="1.2.3.4",
            patient_id=patient_id,
            accession_number="A1",
            study_date=dt.date(2026, 2, 28),
            modality="DX",
            view_position="PA",
        ),
        rendering="window:LINEAR",
        warnings=(),
        classified_at=START + dt.timedelta(hours=1, minutes=minute),
        processing_seconds=0.5,
    )


def make_rejected(reason: str = "no DICOM, PNG or JPEG") -> Finished:
    """Return the answer of a file that could not be read."""
    return Finished(
        answer=Rejection(reason_code=ReasonCode.UNREADABLE_FILE, reason=reason),
        header=None,
        rendering=None,
        warnings=(),
        classified_at=START + dt.timedelta(hours=1),
        processing_seconds=0.25,
    )

"""What the study page says in words."""

import re
from pathlib import Path

import pytest

from xray_batch import store
from xray_batch.decode.codecs import transfer_syntaxes
from xray_batch.pipeline.pictures import Absence
from xray_batch.records import RESULT_COLUMNS, Outcome, ResultRecord
from xray_batch.web.words import ABSENCES, EVENTS, FILTERS, TRANSFER_SYNTAXES, explain_outcome


def record(outcome, p_pneumonia, disagreement=0.1):
    """Return an answer with thresholds at 0.25 and 0.75."""
    values = {"p_pneumonia": p_pneumonia, "disagreement": disagreement, "threshold_low": 0.25, "threshold_high": 0.75}
    return ResultRecord(**(dict.fromkeys(RESULT_COLUMNS) | {"outcome": outcome} | values))


def test_transfer_syntaxes():
    """Every encoding that is read has the name that the decoders have for it."""
    assert {syntax.uid: syntax.name for syntax in transfer_syntaxes()} == TRANSFER_SYNTAXES


def test_absences():
    """There are words for every reason why a film cannot be shown."""
    assert set(ABSENCES) == set(Absence)


def test_events():
    """There are words for every kind of event that the store writes."""
    text = "".join(path.read_text() for path in Path(store.__file__).parent.glob("*.py"))
    kinds = re.findall(r'events\(\s*connection,\s*"(\w+)"', text)
    assert len(set(kinds)) > 10
    assert set(kinds) <= set(EVENTS)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (record(Outcome.PNEUMONIA, 0.75), "Pneumonia: P(pneumonia) 0.750 is at or above the high threshold, 0.750."),
        (
            record(Outcome.PNEUMONIA, 0.99999),
            "Pneumonia: P(pneumonia) > 0.999 is at or above the high threshold, 0.750.",
        ),
        (record(Outcome.NORMAL, 0.2), "Normal: P(pneumonia) 0.200 is below the low threshold, 0.250."),
        (
            record(Outcome.INDETERMINATE, 0.5),
            "Indeterminate: P(pneumonia) 0.500 is between the thresholds, 0.250 and 0.750.",
        ),
        (
            record(Outcome.INDETERMINATE, 0.9, disagreement=0.6),
            "Indeterminate: the networks differ by 0.600, more than the 0.500 up to which an answer is given, whatever "
            "their mean.",
        ),
    ],
)
def test_sentence(answer, sentence):
    """One sentence says what an outcome rests on."""
    assert explain_outcome(answer, 0.5) == sentence


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0.0, "< 0.001"), (0.0004, "< 0.001"), (0.374, "0.374"), (0.9996, "> 0.999"), (1.0, "> 0.999")],
)
def test_nobody_knows_for_certain(probability, text):
    """No probability is 0 or 1, however it is rounded."""
    assert FILTERS["precise"](probability) == text

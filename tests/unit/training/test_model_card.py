"""The model card: people read there what the manifest says."""

import pytest
from bundle_factory import make_manifest

from xray_batch import DISCLAIMER
from xray_batch.bundle import CalibrationFacts
from xray_batch.training.model_card import model_card

CARD = model_card(make_manifest())

CALIBRATION = CalibrationFacts(
    derived_from="test-cxr-1.2.3",
    derived_from_sha256="0" * 64,
    calibrated_at="2026-01-31T12:00:00Z",
    name="ward",
    sha256="0" * 64,
    images={"ward: normal": 50},
    patients=50,
    left_out={},
)


def test_disclaimer():
    """The card says that this is no medical device."""
    assert DISCLAIMER in CARD
    assert "not a medical device" in DISCLAIMER.lower()


@pytest.mark.parametrize(
    "row",
    [
        "| AUROC pneumonia | made-up, validation | 0.9375 | 0.8125 - 0.9688 | 110 |",
        "| accuracy finding | made-up, other | 0.5625 | 0.4375 - 0.6875 | 48 |",
    ],
)
def test_every_metric(row):
    """Each metric is a row with its data, value, interval and n."""
    assert row in CARD.splitlines()


def test_every_metric_of_another_manifest():
    """No metric is left out, however many there are."""
    metric = make_manifest().metrics[0]
    metrics = tuple(metric.model_copy(update={"name": f"figure {number}"}) for number in range(12))
    card = model_card(make_manifest(metrics=metrics))
    assert all(f"| figure {number} |" in card for number in range(12))


def test_intervals():
    """The card says what its intervals are, and of older figures that their own card does."""
    assert "percentiles of samples of the patients" in CARD
    assert "its card says how their intervals were made" in model_card(make_manifest(calibration=CALIBRATION))


@pytest.mark.parametrize("row", ["| made-up: normal | 30 | 3 |", "| made-up: viral_pneumonia | 20 | 0 |"])
def test_data(row):
    """Each source and label is a row with its numbers of images, also where none was held out."""
    assert row in CARD.splitlines()


@pytest.mark.parametrize(
    "fact",
    [
        "# test-cxr-1.2.3",
        "Tests of this package.",
        "CC BY 4.0",
        "32 x 32",
        "squash-bilinear-antialias",
        "mean 0.5000 and SD 0.2500",
        "temperature 1.250",
        "Starting weights: random",
        "2026-01-31",
        "torch 2.11.0",
        "normal, bacterial_pneumonia, viral_pneumonia, covid19_pneumonia",
        "Below 0.2500 the outcome is `normal`",
        "0.7500 on `pneumonia`",
        "differ by more than 0.500",
    ],
)
def test_facts(fact):
    """What decides an answer is in the card."""
    assert fact in CARD


@pytest.mark.parametrize("name", ["balanced", "high sensitivity", "high specificity"])
def test_operating_points(name):
    """Each operating point is a row with both of its measures, their intervals and n."""
    row = f"| {name} | 0.5000 | 0.900 (0.800 - 0.950), n = 50 | 0.800 (0.700 - 0.875), n = 60 |"
    assert row in CARD.splitlines()


def test_changes_that_the_balanced_threshold_was_chosen_under():
    """The card names them, and is silent where there were none and where the threshold was chosen anew by a site."""
    training = make_manifest().training.model_copy(update={"balanced_under": ("blurred", "wider")})
    sentence = "The balanced threshold has the largest sum of sensitivity and specificity where that is least"
    card = model_card(make_manifest(training=training))
    assert sentence in card
    assert "as they are and changed (blurred; wider)" in card
    assert sentence not in CARD
    assert sentence not in model_card(make_manifest(training=training, calibration=CALIBRATION))


@pytest.mark.parametrize("row", ["| made-up | 50 | 2.0% | 4.0% | 6.0% |", "| inverted | 40 | 75.0% | 20.0% | 95.0% |"])
def test_rates_of_the_gate(row):
    """Each kind of picture is a row with what the gate refuses and flags of it."""
    assert row in CARD.splitlines()


def test_drift_reference():
    """The card says what drift is measured against and how many results that takes, or is silent where it is not."""
    section = CARD.partition("## Drift reference\n")[2].partition("\n## ")[0]
    assert "1000 films (made-up, kermany)" in section
    assert "index needs 204 results" in section
    assert "| `input_mean` | 0.1000 | 0.2000 | 0.3000 |" in section
    assert "Drift reference" not in model_card(make_manifest(drift_reference=None))
    few = make_manifest().drift_reference.model_copy(update={"n": 112})
    assert "too few for a population stability index" in model_card(make_manifest(drift_reference=few))


def test_ages():
    """The card says which ages the bundle is meant for, or that nobody knows."""
    assert "patients 1 to 5 years old" in CARD
    assert "ages of the training patients are not recorded" in model_card(make_manifest(intended_ages=None))


def test_images_of_unknown_patients():
    """Where every image is of another patient, as in folders, the card says what that means for the figures."""
    training = make_manifest().training
    unknown = training.model_copy(update={"held_out": "held out by patient, no two images of one patient"})
    assert "the figures are too good" in model_card(make_manifest(training=unknown))
    assert "the figures are too good" not in model_card(make_manifest())


def limits_of(**changes):
    """Return the section of limits."""
    return model_card(make_manifest(**changes)).partition("## Limits\n")[2].partition("\n## ")[0]


def test_limits_of_a_calibrated_bundle():
    """Thresholds of a site's own calibration were not chosen on the images of the cross-fitted figures."""
    chosen = "chosen on the same held-out images"
    assert chosen in limits_of()
    assert chosen not in limits_of(calibration=CALIBRATION)


def test_notes_of_a_calibrated_bundle():
    """What was written of thresholds before a calibration is not taken for what is true after it."""
    sentence, notes = "what was written before the calibration", "## Subgroups\n\nAt the balanced threshold."
    assert sentence not in model_card(make_manifest(notes=notes))
    assert sentence not in model_card(make_manifest(calibration=CALIBRATION))
    card = model_card(make_manifest(notes=notes, calibration=CALIBRATION))
    assert card.index("## Limits") < card.index(sentence) < card.index(notes) < card.index("## Licence")


def limits_of_a_training(**images):
    """Return the limits of a bundle that was trained on so many images of each label of one source."""
    counts = {f"ward: {label}": count for label, count in images.items()}
    return limits_of(training=make_manifest().training.model_copy(update={"images": counts}))


def test_limits_of_the_covid_19_class():
    """The card says from how many images the class was learned."""
    assert "learned from 7 images" in limits_of_a_training(normal=30, covid19_pneumonia=7)


def test_limits_of_findings_that_were_not_trained():
    """The probability of a finding without an image of its own label says nothing, and the card says so of each."""
    sentence = "No image labelled `{}` was trained on: the probability of that class says nothing."
    limits = limits_of_a_training(normal=30, pneumonia=20, viral_pneumonia=5)
    assert sentence.format("bacterial_pneumonia") in limits
    assert sentence.format("covid19_pneumonia") in limits
    assert limits.count("was trained on") == 2
    every = limits_of_a_training(normal=3, bacterial_pneumonia=3, viral_pneumonia=3, covid19_pneumonia=3)
    assert "was trained on" not in every


def test_network_of_the_gate():
    """After a cross-validation the gate reads a network that was trained on the films of its tables, too."""
    training = make_manifest().training
    sentence = "resnet34 itself was trained on both"
    assert sentence not in model_card(make_manifest(training=training.model_copy(update={"held_out": "by patient"})))
    assert sentence in model_card(make_manifest(training=training.model_copy(update={"held_out": "1 of 5 folds"})))

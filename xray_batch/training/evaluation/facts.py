"""What a report holds: `report.json` is a :class:`Report` as JSON, keys as the fields here.

Shares, probabilities and areas are from 0 to 1.  `null` says that a figure could not be measured; of pneumonia,
findings and COVID-19, `not_measured` says why.  Of subgroups, the stress set and the curves there is one reason:
too few films or patients, by the bounds that stand beside them here.
"""

from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict

from xray_batch.records import Finding, Outcome
from xray_batch.training.bootstrap import Estimate

#: Raised by one when a key changes its name or its meaning.
REPORT_VERSION: Final = 3


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NotMeasured(_Facts):
    """A figure that the films do not allow."""

    figure: str
    why: str


class Provenance(_Facts):
    """What was measured on what, by which program."""

    model_id: str
    model_sha256: str  #: of the bundle's manifest
    members: tuple[str, ...]  #: architectures
    data: str  #: list of labels, or of predictions
    data_sha256: str | None  #: of the films and labels, as in a bundle's `training.sha256`; null: a file cannot be read
    predictions: str  #: where the members' probabilities come from
    seen: int | None  #: measured films that the bundle was trained on, or copies of such; null: not known of some
    created_at: AwareDatetime
    command: str
    device: str  #: GPU, or instructions and threads of the CPU
    precision: str
    libraries: dict[str, str]  #: versions
    resamples: int  #: of the bootstrap
    seed: int


class Tally(_Facts):
    """What became of the films with one label from one source; nothing is left out."""

    source: str
    label: str
    films: int
    patients: int
    outcomes: dict[Outcome, int]  #: every outcome, also with 0
    not_analysed: dict[str, int]  #: films per reason code


class PredictiveValues(_Facts):
    """What an answer is worth where so many of the patients have pneumonia."""

    prevalence: float
    ppv: Estimate | None
    npv: Estimate | None


class OperatingPointFacts(_Facts):
    """One of the bundle's locked thresholds on P(pneumonia)."""

    name: str
    threshold: float
    accuracy: Estimate | None
    sensitivity: Estimate | None
    specificity: Estimate | None
    predictive_values: tuple[PredictiveValues, ...]
    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int


class BandFacts(_Facts):
    """The answers `pneumonia` and `normal`, with the `indeterminate` between them set aside."""

    threshold_low: float
    threshold_high: float
    disagreement_limit: float
    coverage: Estimate | None  #: share of the films with one of the two answers
    accuracy: Estimate | None  #: of these answers
    sensitivity: Estimate | None  #: likewise
    specificity: Estimate | None  #: likewise


class PneumoniaFacts(_Facts):
    """Pneumonia of any cause against normal; films labelled COVID-19 are not among them."""

    films: int
    patients: int
    with_pneumonia: int
    without_pneumonia: int
    auroc: Estimate | None
    average_precision: Estimate | None
    brier_score: Estimate | None  #: mean squared distance between probability and truth
    log_loss: Estimate | None  #: natural logarithm
    calibration_error: Estimate | None  #: expected calibration error, 15 equally filled bins
    calibration_slope: Estimate | None  #: 1 is perfect
    calibration_in_the_large: Estimate | None  #: intercept with the slope held at 1; 0 is perfect, above 0: too low
    member_auroc: dict[str, Estimate | None]  #: of each member alone, by its architecture
    operating_points: tuple[OperatingPointFacts, ...]  #: balanced, high sensitivity, high specificity
    band: BandFacts


class FindingFacts(_Facts):
    """Findings told apart, on films whose label names one, of sources with bacterial and viral pneumonias."""

    classes: tuple[Finding, ...]
    films: int
    accuracy: Estimate | None
    macro_f1: Estimate | None
    confusion: tuple[tuple[int, ...], ...]  #: films per true class (row) and likeliest class (column)
    bacterial_against_viral_auroc: Estimate | None  #: among films labelled one of the two
    bacterial_against_viral_accuracy: Estimate | None  #: likewise, the likelier of the two


class Covid19Facts(_Facts):
    """The COVID-19 class; a side result that must not be relied on."""

    films: int
    auroc: Estimate | None  #: P(COVID-19) of films with this label against all others
    called_pneumonia: Estimate | None  #: share at or above the balanced threshold on P(pneumonia)


class Curve(_Facts):
    """A line with its 95 % band."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class CalibrationBin(_Facts):
    """Films of about the same probability."""

    probability: float  #: mean
    observed: Estimate  #: share with pneumonia


class Curves(_Facts):
    """What the drawings show; null where under 10 patients have films with pneumonia, or without."""

    roc: Curve | None  #: sensitivity over 1 - specificity
    precision_recall: Curve | None  #: PPV over sensitivity
    calibration: tuple[CalibrationBin, ...]
    net_benefit: Curve | None  #: over the threshold probability; Vickers and Elkin 2006
    net_benefit_treat_all: Curve | None  #: likewise, of calling every film pneumonia
    histogram_edges: tuple[float, ...]  #: of P(pneumonia)
    histogram: dict[str, tuple[int, ...]]  #: films per bin, by label


class Subgroup(_Facts):
    """Films that have something in common, at the balanced threshold."""

    attribute: str
    group: str
    films: int
    with_pneumonia: int
    without_pneumonia: int
    sensitivity: Estimate | None  #: null under 30 films with pneumonia, or under 10 patients with such
    specificity: Estimate | None  #: likewise, films without


class StressRow(_Facts):
    """The same films, all changed in one way; null where under 10 patients have films of the kind that it takes."""

    name: str
    is_control: bool  #: whether the change takes the evidence away
    auroc: Estimate | None
    sensitivity: Estimate | None  #: at the balanced threshold
    specificity: Estimate | None  #: likewise
    mean_change: float  #: of P(pneumonia), either way, against the film as it is
    largest_change: float
    refused: Estimate | None  #: share that the input gate would refuse; they count in the other figures all the same


class StressFacts(_Facts):
    """The stress set; see :mod:`xray_batch.training.stress`."""

    films: int
    with_pneumonia: int
    without_pneumonia: int
    seen: int | None  #: films that the bundle was trained on, or copies of such; null: not known of some
    side: int  #: rows and columns of the films before the bundle's preprocessing
    rows: tuple[StressRow, ...]


class Loss(_Facts):
    """A film that the model was most wrong about."""

    file: str
    source: str
    label: str
    outcome: Outcome
    p_pneumonia: float
    loss: float  #: -log of the probability given to what the label says, natural logarithm
    seen: bool | None  #: whether the bundle, whose heat map it is, was trained on it, or on a copy; null: not known
    picture: str | None  #: in the folder of the report; null where the file cannot be shown
    heat_picture: str | None  #: likewise


class Report(_Facts):
    """Everything in a report."""

    version: int  #: of this format
    disclaimer: str
    provenance: Provenance
    tallies: tuple[Tally, ...]
    pneumonia: PneumoniaFacts
    findings: FindingFacts | None
    covid19: Covid19Facts | None  #: only on request
    subgroups: tuple[Subgroup, ...]
    attributes_unknown: tuple[str, ...]  #: what no file says of itself, so that no subgroup is formed by it
    stress: StressFacts | None
    curves: Curves
    top_losses: tuple[Loss, ...]
    not_measured: tuple[NotMeasured, ...]

"""Write the model card of a bundle from its manifest."""

from xray_batch import DISCLAIMER
from xray_batch.bundle import CalibrationFacts, DriftFacts, GateRate, Manifest, OperatingPoint
from xray_batch.drift import BINS, least_results
from xray_batch.records import DRIFT_COLUMNS, Finding
from xray_batch.training.bootstrap import LEAST_PATIENTS
from xray_batch.training.manifest import NO_TWO_OF_ONE_PATIENT


def model_card(manifest: Manifest) -> str:
    """Return the card as Markdown; all that it says is in the manifest."""
    sections = [
        f"# {manifest.model_id}",
        f"**{DISCLAIMER}**",
        f"## Intended use\n\n{manifest.intended_use} {_ages(manifest)}",
        _model(manifest),
        _data(manifest),
        _figures(manifest),
        _thresholds(manifest),
        *([_calibration(manifest.calibration)] if manifest.calibration else []),
        *([_drift(manifest.drift_reference)] if manifest.drift_reference else []),
        _gate(manifest),
        _limits(manifest),
        _notes(manifest),
        f"## Licence\n\n{manifest.licence}",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _ages(manifest: Manifest) -> str:
    if manifest.ages is None:
        return "The ages of the training patients are not recorded."
    return f"Meant for patients {manifest.ages}; others are flagged, or refused where `age_policy` says so."


def _model(manifest: Manifest) -> str:
    facts = manifest.input
    return (
        f"## Model\n\nEnsemble of {manifest.architecture} (torchvision, one input channel); classes: "
        f"{', '.join(manifest.classes)}. Input: {facts.rows} x {facts.columns} pixels, resize rule "
        f"`{facts.resize}`, standardized with mean {facts.mean:.4f} and SD {facts.std:.4f}. Probabilities are the "
        f"mean of the members', calibrated with temperature {manifest.temperature:.3f} and a shift of the log odds of "
        f"pneumonia by {manifest.log_odds_shift:.3f}.\n\n"
        f"Starting weights: {manifest.training.starting_weights}. "
        f"Made on {manifest.created_at:%Y-%m-%d} with "
        + ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())
        + "."
    )


def _data(manifest: Manifest) -> str:
    rows = [
        f"| {name} | {manifest.training.images.get(name, 0)} | {manifest.training.held_out_images.get(name, 0)} |"
        for name in sorted(manifest.training.images | manifest.training.held_out_images)
    ]
    table = "\n".join(["| source: label | trained on | measured on |", "|---|---|---|", *rows])
    return f"## Data\n\n{_how_held_out(manifest)}\n\n{table}"


def _how_held_out(manifest: Manifest) -> str:
    how = manifest.training.held_out
    text = f"Measured on images {how}: no patient, and no copy of an image, is on both sides of a split."
    if NO_TWO_OF_ONE_PATIENT in how:
        text += (
            " By the list every image is of another patient, as it is for images in folders, of which nobody knows: "
            "where that is not so, the figures are too good."
        )
    if "folds" in how:
        text += (
            " The figures are those of networks trained in the same way on the other folds; the members of this "
            "bundle were then trained on all images."
        )
    return text


def _figures(manifest: Manifest) -> str:
    rows = [
        f"| {metric.name} | {metric.data} | {metric.value:.4f} | {metric.low:.4f} - {metric.high:.4f} | {metric.n} |"
        for metric in manifest.metrics
    ]
    table = "\n".join(["| figure | data | value | 95 % CI | n |", "|---|---|---|---|---|", *rows])
    how = (
        "Intervals here and under Thresholds: percentiles of samples of the patients. A share of all or none of the "
        f"films, or of films of fewer than {LEAST_PATIENTS} patients, has Wilson's interval over the patients."
    )
    return f"## Figures\n\n{how}\n\n{table}"


def _thresholds(manifest: Manifest) -> str:
    points = manifest.operating_points
    rows = [
        _point("balanced", points.balanced),
        _point("high sensitivity", points.high_sensitivity),
        _point("high specificity", points.high_specificity),
    ]
    header = "| operating point | threshold | sensitivity (95 % CI) | specificity (95 % CI) |\n|---|---|---|---|"
    table = "\n".join([header, *rows])
    chosen_on = (
        f"the local images of {manifest.calibration.name}"
        if manifest.calibration
        else f"the held-out images of: {manifest.training.reference}"
    )
    return (
        f"## Thresholds\n\nBelow {manifest.threshold_low:.4f} the outcome is `normal`, from "
        f"{manifest.threshold_high:.4f} on `pneumonia`, between them `indeterminate`; likewise where the members' "
        f"P(pneumonia) differ by more than {manifest.disagreement_limit:.3f}. Chosen on {chosen_on}."
        f"{_balanced(manifest)}\n\n{table}"
    )


def _balanced(manifest: Manifest) -> str:
    """Say under which changes of the images the balanced threshold was chosen, if any."""
    changes = manifest.training.balanced_under
    if manifest.calibration or not changes:
        return ""
    return (
        " The balanced threshold has the largest sum of sensitivity and specificity where that is least: over these "
        f"images as they are and changed ({'; '.join(changes)}). The table is of the images as they are."
    )


def _calibration(facts: CalibrationFacts) -> str:
    rows = "\n".join(f"| {name} | {count} |" for name, count in facts.images.items())
    left_out = ", ".join(f"{count} {reason}" for reason, count in facts.left_out.items())
    return (
        f"## Calibration\n\nTemperature, shift, thresholds and the limit of disagreement were fitted anew on "
        f"{facts.calibrated_at:%Y-%m-%d} to {sum(facts.images.values())} local images of {facts.patients} patients "
        f"({facts.name}, SHA-256 of images and labels {facts.sha256}). Weights and gate are those of "
        f"{facts.derived_from} (manifest SHA-256 {facts.derived_from_sha256}). Listed files that the gate or the "
        f"decoder refused, and that were left out: {left_out or 'none'}.\n\n"
        "The table of thresholds is measured on the images that they were fitted to, which flatters. The local "
        "figures above are not: each fifth of the patients was measured with a calibration fitted to the others. "
        f"Figures as {facts.derived_from} were measured before, with other thresholds and another temperature; "
        "its card says how their intervals were made.\n\n"
        f"| source: label | images |\n|---|---|\n{rows}"
    )


def _drift(facts: DriftFacts) -> str:
    edges = {name: getattr(facts, name).edges for name in DRIFT_COLUMNS}
    rows = [f"| `{name}` | {' | '.join(f'{edge:.4f}' for edge in found)} |" for name, found in edges.items()]
    deciles = " | ".join(f"{tenth * 10} %" for tenth in range(1, BINS))
    table = "\n".join([f"| below | {deciles} |", "|---" * BINS + "|", *rows])
    least = least_results(facts.n)
    needed = (
        "They are too few for a population stability index"
        if least is None
        else (f"A population stability index needs {least} results")
    )
    return (
        f"## Drift reference\n\nWhat a site's films are compared with: {facts.n} films ({facts.data}). The "
        "probabilities are those of networks that were not trained on them. "
        f"{needed}. Drift says that films or patients are others than these, not that answers are wrong.\n\n{table}"
    )


def _gate(manifest: Manifest) -> str:
    gate = manifest.gate
    header = "| {} | n | refused | flagged | refused or flagged |\n|---|---|---|---|---|"
    films = "\n".join([header.format("real films of held-out patients"), *(_rate(rate) for rate in gate.films)])
    failures = "\n".join([header.format("to be refused or flagged"), *(_rate(rate) for rate in gate.failures)])
    return (
        f"## Input gate\n\nA linear layer on the features of {gate.architecture} tells upright, whole chest films from "
        f"other pictures. Above {gate.refuse_above:.2f} (log odds) one is refused as `out_of_distribution`, above "
        f"{gate.flag_above:.2f} flagged; below a sharpness of {gate.sharpness_below:.2f} it is flagged as blurred. "
        "The layer was fitted, and the limits were chosen, on other patients than those of the tables"
        f"{_network_of_gate(manifest)}. The spoilt films are the held-out ones; the drawings are new ones of the "
        "kinds that the layer was fitted to.\n\n"
        f"{films}\n\n{failures}"
    )


def _network_of_gate(manifest: Manifest) -> str:
    is_trained_on_all = "folds" in manifest.training.held_out
    return f"; {manifest.gate.architecture} itself was trained on both" if is_trained_on_all else ""


def _limits(manifest: Manifest) -> str:
    limits = [
        "The figures above were measured on images of the same sources as those that were trained on or calibrated "
        "with. They say nothing about another hospital, another age group or another device."
    ]
    if manifest.calibration is None:
        limits.append(
            "Thresholds, temperature and shift were chosen on the same held-out images that the figures come from, "
            "so those of the operating points are optimistic."
        )
    counts = {
        finding: sum(n for name, n in manifest.training.images.items() if name.endswith(f": {finding}"))
        for finding in manifest.classes
    }
    if covid19 := counts[Finding.COVID19_PNEUMONIA]:
        limits.append(
            f"The COVID-19 class was learned from {covid19} images. A class of few images, or of other sources than "
            "the normal ones, is no finding."
        )
    limits += [
        f"No image labelled `{finding}` was trained on: the probability of that class says nothing."
        for finding, count in counts.items()
        if not count
    ]
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _notes(manifest: Manifest) -> str:
    """Return the notes; a calibration keeps them, but not the thresholds that they are about."""
    notes = manifest.notes.strip()
    if not notes or manifest.calibration is None:
        return notes
    return (
        "**From here to the licence the card says what was written before the calibration: outcomes, sensitivity, "
        "specificity and calibration are those of the thresholds and the temperature of then.**\n\n" + notes
    )


def _rate(rate: GateRate) -> str:
    shares = (rate.refused, rate.flagged, rate.refused + rate.flagged)
    return f"| {rate.name} | {rate.n} | {' | '.join(f'{share / rate.n:.1%}' for share in shares)} |"


def _point(name: str, point: OperatingPoint) -> str:
    sensitivity, specificity = point.sensitivity, point.specificity
    return (
        f"| {name} | {point.threshold:.4f} "
        f"| {sensitivity.value:.3f} ({sensitivity.low:.3f} - {sensitivity.high:.3f}), n = {sensitivity.n} "
        f"| {specificity.value:.3f} ({specificity.low:.3f} - {specificity.high:.3f}), n = {specificity.n} |"
    )

"""Drawings of a report's figures."""

from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xray_batch.training.bootstrap import Estimate
from xray_batch.training.evaluation.facts import Curve, OperatingPointFacts, Report, StressFacts
from xray_batch.training.evaluation.stress_pictures import draw_stress_films
from xray_batch.training.evaluation.style import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    LABEL_COLORS,
    POINT_MARKERS,
    SKY,
    SQUARE,
    VERMILION,
    WIDE,
    drawn,
)
from xray_batch.training.stress import Film

_BAND_OPACITY: Final = 0.22

#: Smallest net benefit that is shown: what is worse is of no use, however much worse.
_LEAST_NET_BENEFIT: Final = -0.1


def draw_figures(report: Report, example: Film | None) -> dict[str, Figure]:
    """Draw what a report's figures allow.

    Parameters
    ----------
    example
        A film to show the stresses on, shape (rows, columns), values in [0, 1].

    Returns
    -------
    dict
        Drawings by their names: the files' names without suffix.
    """
    figures = {"probabilities": _draw_histogram(report), "confusion": _draw_confusion(report)}
    curves = report.curves
    if curves.roc:
        figures["roc"] = _draw_roc(curves.roc, report)
    if curves.precision_recall:
        figures["precision-recall"] = _draw_precision_recall(curves.precision_recall, report)
    if curves.roc:
        figures["reliability"] = _draw_reliability(report)
    if curves.net_benefit and curves.net_benefit_treat_all:
        figures["decision-curve"] = _draw_decision_curve(curves.net_benefit, curves.net_benefit_treat_all, report)
    if report.findings:
        figures["findings"] = _draw_findings(report)
    if report.stress:
        figures["stress"] = _draw_stress(report.stress)
    if example is not None:
        figures["stress-films"] = draw_stress_films(example)
    return figures


def _band(axes: Axes, curve: Curve, color: str) -> None:
    axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=_BAND_OPACITY, linewidth=0)


def _unit_axes(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y, aspect="equal")


def _mark_points(axes: Axes, points: tuple[OperatingPointFacts, ...], x: str, y: str) -> None:
    """Mark the operating points with their own markers, and name them in a legend that hides no curve."""
    for point in points:
        values = {
            "false positive rate": 1 - point.specificity.value if point.specificity else None,
            "sensitivity": point.sensitivity.value if point.sensitivity else None,
            "ppv": _observed_ppv(point),
        }
        across, up = values[x], values[y]
        if across is None or up is None:
            continue
        axes.plot(
            [across],
            [up],
            POINT_MARKERS[point.name],
            color=VERMILION,
            markersize=8,
            markeredgecolor="white",
            label=f"{point.name}, threshold {point.threshold:.2f}",
            clip_on=False,
            zorder=5,
        )


def _observed_ppv(point: OperatingPointFacts) -> float | None:
    called = point.true_positives + point.false_positives
    return point.true_positives / called if called else None


def _draw_roc(curve: Curve, report: Report) -> Figure:
    auroc = report.pneumonia.auroc

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, linestyle=":")
        axes.annotate("chance", (0.62, 0.58), color=GRAY, fontsize=9, rotation=45, rotation_mode="anchor")
        _band(axes, curve, BLUE)
        axes.plot(curve.x, curve.y, color=BLUE, drawstyle="steps-post")
        _mark_points(axes, report.pneumonia.operating_points, "false positive rate", "sensitivity")
        _unit_axes(axes, "1 - specificity", "sensitivity")
        axes.set_title(f"ROC: area {interval(auroc)}")
        axes.legend(loc="lower right", fontsize=8.5)

    return drawn(SQUARE, draw)


def _draw_precision_recall(curve: Curve, report: Report) -> Figure:
    pneumonia = report.pneumonia
    prevalence = pneumonia.with_pneumonia / pneumonia.films

    def draw(axes: Axes) -> None:
        axes.axhline(prevalence, color=GRAY, linewidth=0.8, linestyle=":")
        axes.annotate(f"all called pneumonia: {prevalence:.2f}", (0.02, prevalence + 0.015), color=GRAY, fontsize=9)
        _band(axes, curve, BLUE)
        axes.plot(curve.x, curve.y, color=BLUE)
        _mark_points(axes, pneumonia.operating_points, "sensitivity", "ppv")
        _unit_axes(axes, "sensitivity (recall)", "PPV in these films (precision)")
        axes.set_title(f"Average precision {interval(pneumonia.average_precision)}")
        axes.legend(loc="lower right", fontsize=8.5)

    return drawn(SQUARE, draw)


def _draw_reliability(report: Report) -> Figure:
    bins = report.curves.calibration
    edges = report.curves.histogram_edges
    films = np.sum(list(report.curves.histogram.values()), axis=0)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, linestyle=":")
        axes.annotate("as promised", (0.66, 0.62), color=GRAY, fontsize=9, rotation=45, rotation_mode="anchor")
        heights = 0.18 * films / max(1, films.max())
        axes.bar(edges[:-1], heights, np.diff(edges), align="edge", color=SKY, alpha=0.45, linewidth=0)
        axes.annotate("films, by probability", (0.5, 0.02), color=BLUE, fontsize=8.5, ha="center")
        x = [part.probability for part in bins]
        observed = [part.observed for part in bins]
        y = np.array([share.value for share in observed])
        # Wilson's interval can exclude its own value by a rounding error at 0 and 1.
        reach = np.maximum(0, [y - [share.low for share in observed], [share.high for share in observed] - y])
        axes.errorbar(x, y, reach, fmt="o-", color=BLUE, markersize=4.5, linewidth=1.2, elinewidth=1, capsize=0)
        _unit_axes(axes, "P(pneumonia) given", "share with pneumonia")
        axes.set_title(f"Calibration error {interval(report.pneumonia.calibration_error)}")

    return drawn(SQUARE, draw)


def _draw_decision_curve(curve: Curve, treat_all: Curve, report: Report) -> Figure:
    thresholds = {point.name: point.threshold for point in report.pneumonia.operating_points}

    def draw(axes: Axes) -> None:
        axes.axhline(0, color=BLACK, linewidth=1, label="none called pneumonia")
        _band(axes, curve, BLUE)
        axes.plot(curve.x, curve.y, color=BLUE, label="this model")
        axes.plot(treat_all.x, treat_all.y, color=GRAY, linewidth=1.4, linestyle="--", label="all called pneumonia")
        top = max(*curve.high, 0.05) * 1.08
        for name, threshold in thresholds.items():
            axes.plot(
                [threshold],
                [0],
                POINT_MARKERS[name],
                color=VERMILION,
                markersize=7,
                zorder=5,
                label=f"{name} threshold",
            )
        bottom = min(max(_LEAST_NET_BENEFIT, min(curve.low)), -0.03 * top)  # the markers are at zero
        axes.set(xlim=(0, 1), ylim=(bottom, top))
        axes.set(xlabel="threshold probability", ylabel="net benefit")
        share = report.pneumonia.with_pneumonia / report.pneumonia.films
        axes.set_title(f"Decision curve; {100 * share:.0f} % of the films have pneumonia")
        _legend_below(axes)

    return drawn(WIDE, draw)


def _draw_histogram(report: Report) -> Figure:
    edges = np.array(report.curves.histogram_edges)
    band = report.pneumonia.band

    def draw(axes: Axes) -> None:
        below = np.zeros(len(edges) - 1)
        for label, counts in report.curves.histogram.items():
            name = f"{label.replace('_', ' ')} ({sum(counts)})"
            axes.bar(
                edges[:-1],
                counts,
                np.diff(edges),
                below,
                align="edge",
                color=LABEL_COLORS[label],
                edgecolor="white",
                linewidth=0.4,
                label=name,
            )
            below += counts
        top = max(1.0, float(below.max())) * 1.15
        axes.axvspan(band.threshold_low, band.threshold_high, color=GRAY, alpha=0.15, linewidth=0)
        middle = (band.threshold_low + band.threshold_high) / 2
        axes.annotate("indeterminate", (middle, top * 0.985), ha="center", va="top", fontsize=9, color="#444444")
        balanced = report.pneumonia.operating_points[0].threshold
        axes.axvline(balanced, ymax=0.93, color=BLACK, linewidth=1, linestyle="--", label=f"balanced, {balanced:.2f}")
        axes.set(xlim=(0, 1), ylim=(0, top), xlabel="P(pneumonia)", ylabel="films")
        axes.set_title("Probabilities, by label")
        _legend_below(axes)

    return drawn(WIDE, draw)


def _draw_confusion(report: Report) -> Figure:
    point = report.pneumonia.operating_points[0]
    counts = np.array([[point.true_negatives, point.false_positives], [point.false_negatives, point.true_positives]])
    title = f"At the balanced threshold {point.threshold:.2f}"
    return drawn((4.4, 3.4), lambda axes: _matrix(axes, counts, ("normal", "pneumonia"), title))


def _draw_findings(report: Report) -> Figure:
    assert report.findings is not None
    names = tuple(finding.replace("_pneumonia", "") for finding in report.findings.classes)
    counts = np.array(report.findings.confusion)
    return drawn((5.0, 4.0), lambda axes: _matrix(axes, counts, names, "The likeliest of three findings"))


def _matrix(axes: Axes, counts: npt.NDArray[np.int_], names: tuple[str, ...], title: str) -> None:
    """Draw films per label and answer; the darker a cell, the larger its share of its row."""
    films = counts.sum(axis=1)
    shares = counts / np.maximum(1, films)[:, None]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    for row, column in np.ndindex(*counts.shape):
        color = "white" if shares[row, column] > 0.6 else BLACK
        share = f"{100 * shares[row, column]:.1f} %" if films[row] else "no films"
        text = f"{counts[row, column]}\n{share}"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=10.5)
    axes.grid(visible=False)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.set(xlabel="answer", ylabel="label")
    axes.spines[:].set_visible(False)
    axes.set_title(title)


def _draw_stress(stress: StressFacts) -> Figure:
    rows = stress.rows[::-1]
    places = np.arange(len(rows))

    def draw(axes: Axes) -> None:
        kinds = (("AUROC", "auroc", BLUE, "o", 0.0), ("sensitivity", "sensitivity", VERMILION, "^", 0.22))
        for name, field, color, marker, offset in (*kinds, ("specificity", "specificity", GREEN, "s", -0.22)):
            found = [(place + offset, getattr(row, field)) for place, row in zip(places, rows, strict=True)]
            measured = [(place, estimate) for place, estimate in found if estimate]
            axes.hlines(
                [place for place, _ in measured],
                [estimate.low for _, estimate in measured],
                [estimate.high for _, estimate in measured],
                color=color,
                linewidth=1.4,
                alpha=0.6,
            )
            axes.plot(
                [estimate.value for _, estimate in measured],
                [place for place, _ in measured],
                marker,
                color=color,
                markersize=5,
                linestyle="none",
                label=name,
                clip_on=False,
            )
        controls = sum(row.is_control for row in rows)
        axes.axhspan(-0.5, controls - 0.5, color=GRAY, alpha=0.12, linewidth=0)
        axes.set_yticks(places, [row.name for row in rows])
        axes.set(xlim=(0, 1), ylim=(-0.5, len(rows) - 0.5))
        axes.tick_params(axis="y", length=0)
        seen = f"\n{stress.seen} of them are in the training data: too good" if stress.seen else ""
        axes.set_title(f"{stress.films} films, changed; controls (shaded) ought to fail{seen}")
        _legend_below(axes)

    return drawn((7.2, 5.8), draw)


def _legend_below(axes: Axes) -> None:
    """Put the legend under the axes, where it hides nothing."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize=8.5)


def interval(estimate: Estimate | None) -> str:
    """Write an estimate with its interval."""
    return "not measured" if estimate is None else f"{estimate.value:.3f} ({estimate.low:.3f} - {estimate.high:.3f})"

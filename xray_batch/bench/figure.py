"""The figure of a benchmark: where the time of a film goes, and how fast the whole is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xray_batch.bench.machine import machine_lines
from xray_batch.bench.measures import EndToEnd, ForwardTimes, Report, StageTimes
from xray_batch.training.evaluation.style import BLACK, BLUE, GRAY, GREEN, ORANGE, SKY, VERMILION, drawn_figure

_SIZE: Final = (9.5, 9.0)  #: inches

_STEPS: Final = (("read", GRAY), ("decode", BLUE), ("render", ORANGE), ("resize", GREEN))


def draw_report(report: Report) -> Figure:
    """Draw the steps per encoding, the ensemble per device and precision, and the contenders from end to end."""

    def draw(figure: Figure) -> None:
        grid = figure.add_gridspec(2, 2, height_ratios=(1.35, 1))
        _draw_stages(figure.add_subplot(grid[0, :]), report.stages)
        _draw_forwards(figure.add_subplot(grid[1, 0]), report.forwards)
        _draw_runs(figure.add_subplot(grid[1, 1]), report)
        figure.supxlabel(_caption(report), fontsize=7.5, color=GRAY, ha="left", x=0.01)

    return drawn_figure(_SIZE, draw)


def write_figure(path: Path, report: Report) -> None:
    """Write the figure as PNG."""
    draw_report(report).savefig(path, format="png")


def _draw_stages(axes: Axes, stages: Sequence[StageTimes]) -> None:
    """Draw one bar per encoding, the steps one after the other."""
    names = [f"{stage.encoding}  ({stage.file_bytes / 1e6:.1f} MB)" for stage in stages]
    left = [0.0] * len(stages)
    for step, color in _STEPS:
        lengths = [getattr(stage, step).median_ms for stage in stages]
        axes.barh(names, lengths, left=left, color=color, label=step, zorder=2)
        left = [start + length for start, length in zip(left, lengths, strict=True)]
    _label(axes, left, "{:.0f}")
    axes.set_title("One film from file to model input")
    axes.set_xlabel("ms, one process (median)")
    axes.legend(loc="lower right", ncols=len(_STEPS))


def _draw_forwards(axes: Axes, forwards: Sequence[ForwardTimes]) -> None:
    names = [f"{found.device} {found.precision}, batch {found.batch_images}" for found in forwards]
    speeds = [found.images_per_second for found in forwards]
    axes.barh(names, speeds, color=[VERMILION if found.device == "cuda" else SKY for found in forwards], zorder=2)
    _label(axes, speeds, "{:.1f}")
    axes.set_title("Both networks alone")
    axes.set_xlabel("images/s (median)")


def _draw_runs(axes: Axes, report: Report) -> None:
    names = [_run_name(run) for run in report.runs]
    speeds = [run.images_per_second for run in report.runs]
    axes.barh(names, speeds, color=[GRAY if run.share_of_ceiling is None else BLUE for run in report.runs], zorder=2)
    _label(axes, speeds, "{:.1f}")
    ceiling = report.ceiling.images_per_second
    axes.axvline(ceiling, color=BLACK, linestyle="--", linewidth=1.2, zorder=3)
    axes.set_xlim(right=1.2 * max(ceiling, *speeds))
    axes.set_title("End to end")
    axes.set_xlabel(f"images/s (median), {report.runs[0].files} files\ndashed: the ceiling")


def _run_name(run: EndToEnd) -> str:
    share = "" if run.share_of_ceiling is None else f"\n{100 * run.share_of_ceiling:.0f} % of the ceiling"
    return f"{run.contender}\n{run.precision}{share}"


def _label(axes: Axes, lengths: Sequence[float], form: str) -> None:
    """Write the number at the end of each bar, first bar on top."""
    for position, length in enumerate(lengths):
        axes.annotate(
            form.format(length),
            (length, position),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},  # the line of the ceiling may be behind it
        )
    axes.set_xlim(0, 1.15 * max(lengths))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def _caption(report: Report) -> str:
    """Say what was measured on what: no figure of speed means anything without."""
    mix = ", ".join(f"{share} % {name}" for name, share in report.mix.items())
    lines = [
        *machine_lines(report.machine),
        f"Films of {report.side} x {report.side} pixels, repeats: {report.repeats}. Mix: {mix}.",
    ]
    return "\n".join(lines)

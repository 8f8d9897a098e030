"""The figure of `xray-batch stats`."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from xray_batch import DISCLAIMER
from xray_batch.pipeline.survey import PixelTotals, Totals, input_range
from xray_batch.records import InputSpec


def draw_histograms(totals: Totals, spec: InputSpec, model_id: str) -> Figure:
    """Draw how often which gray occurs over all films, as rendered and as model input; no file is named.

    Parameters
    ----------
    totals
        Of one film at least.
    """
    figure = Figure(figsize=(11, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    rendered, model_input = figure.subplots(1, 2)
    _draw(rendered, totals.rendered, (0.0, 1.0))
    rendered.set_title("films as rendered")
    rendered.set_xlabel("pixel value (0 black, 1 white)")
    _draw(model_input, totals.model_input, input_range(spec))
    model_input.set_title(f"model input of {model_id}")
    model_input.set_xlabel("pixel value (SD of the training split from its mean)")
    films = f"{totals.films:,} films" if totals.films != 1 else "1 film"
    figure.suptitle(f"Histogram of all pixels, {films}")
    figure.supxlabel(DISCLAIMER, fontsize="small")
    return figure


def write_histograms(path: Path, totals: Totals, spec: InputSpec, model_id: str) -> None:
    """Write the figure as PNG."""
    draw_histograms(totals, spec, model_id).savefig(path, format="png")


def _draw(axes: Axes, totals: PixelTotals, ends: tuple[float, float]) -> None:
    """Draw one histogram, its mean, and one standard deviation to each side."""
    edges = np.linspace(*ends, len(totals.histogram) + 1)
    axes.stairs(100 * totals.histogram / totals.count, edges, fill=True, color="0.65")
    axes.axvspan(totals.mean - totals.std, totals.mean + totals.std, color="tab:blue", alpha=0.12, label="mean ± 1 SD")
    axes.axvline(totals.mean, color="tab:blue", label=f"mean {totals.mean:.3f}, SD {totals.std:.3f}")
    axes.set_xlim(ends)
    axes.margins(y=0.25)  # room for the legend
    axes.set_ylabel(f"share of {totals.count:,} pixels (%)")
    axes.legend(loc="upper right", fontsize="small")

"""`report.html`: one file, without script and without a reference to anything outside of it."""

import base64
from collections.abc import Mapping
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from xray_batch.training.bootstrap import LEAST_PATIENTS, Estimate
from xray_batch.training.evaluation.facts import Report
from xray_batch.training.evaluation.subgroups import LEAST_FILMS

#: What each drawing shows, under it.
CAPTIONS: Final = {
    "probabilities": "Calibrated P(pneumonia) of the analysed films, stacked by label.",
    "confusion": "Films per label and answer; shares are of the row.",
    "roc": "The band holds 95 % of the samples at each false positive rate.",
    "precision-recall": "PPV depends on how many of the films have pneumonia; see the table for other prevalences.",
    "reliability": "15 bins of equally many films, fewer where many have one probability, with Wilson's intervals; on "
    "the diagonal, of those given 0.8, 8 in 10 have pneumonia.",
    "decision-curve": "Net benefit (Vickers and Elkin 2006): films rightly called pneumonia, less those wrongly called "
    "so at the odds of the threshold, per film. Useful where the model is above both other lines.",
    "findings": "Films whose label names a finding, of sources with bacterial and viral pneumonias. COVID-19 is not "
    "among the answers here.",
    "stress": "The same films changed, at the bundle's balanced threshold, with 95 % intervals.",
    "stress-films": "One film under every stress (black) and control (gray).",
}


def render_page(report: Report, pictures: Mapping[str, bytes]) -> str:
    """Return the page.

    Parameters
    ----------
    pictures
        PNG files, by the names that the report gives them: `figures/roc.png`.
    """
    environment = Environment(
        loader=PackageLoader("xray_batch.training.evaluation"),
        autoescape=True,  # file names and header texts come from outside
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"estimate": _estimate, "interval": _interval, "number": _number, "words": _words}
    return environment.get_template("report.html.jinja").render(
        report=report,
        pictures={name: f"data:image/png;base64,{base64.b64encode(png).decode()}" for name, png in pictures.items()},
        captions=CAPTIONS,
        least_films=LEAST_FILMS,
        least_patients=LEAST_PATIENTS,
    )


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _estimate(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:.3f}"


def _interval(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.low:.3f} - {estimate.high:.3f}"


def _words(code: str) -> str:
    """Write a code for people: `bacterial_pneumonia`."""
    return code.replace("_", " ")

"""How far the films of a site have moved from those that the bundle was measured on, drawn over time."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from xray_batch.web.charts import Chart, Series, index_lines

#: What is compared, in words; the names are columns of the view `results`.
QUANTITIES: Final[Mapping[str, str]] = {
    "p_pneumonia": "P(pneumonia)",
    "input_mean": "mean of the model input",
    "input_std": "SD of the model input",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendPeriod:
    """One day or week."""

    begins_at: dt.datetime  #: aware; shown by this machine's clock
    results: int  #: analysed films
    indices: Mapping[str, float | None]  #: population stability index by quantity; None for too few results


@dataclass(frozen=True, slots=True, kw_only=True)
class Trends:
    """What one model answered over time, against the films that its bundle was measured on."""

    model_id: str
    reference: str  #: what films those were
    least_results: int  #: fewer in a period give no index
    marks: Mapping[str, float]  #: values of the index that have a name, such as `moderate`
    periods: tuple[TrendPeriod, ...]  #: the oldest first


def draw_trends(trends: Trends) -> Chart:
    """Draw the index of each quantity, period by period."""
    series: Sequence[Series] = [
        Series(
            name=text,
            style=name.replace("_", "-"),
            values=[period.indices.get(name) for period in trends.periods],
        )
        for name, text in QUANTITIES.items()
    ]
    labels = [f"{period.begins_at.astimezone():%m-%d}" for period in trends.periods]
    return index_lines("trends", "Population stability index", labels, series, trends.marks)

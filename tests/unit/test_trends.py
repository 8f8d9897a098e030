"""The section of trends: an index for each period that has enough results, and what it can tell."""

import datetime as dt
import re
from dataclasses import replace

import pytest

from xray_batch.drift import Drift
from xray_batch.web.charts import BOTTOM, TOP
from xray_batch.web.site import make_templates
from xray_batch.web.trends import QUANTITIES, TrendPeriod, Trends, draw_trends

FIRST = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)


def week(number, results, *indices):
    """Return one week with the index of each quantity."""
    begins_at = FIRST + dt.timedelta(weeks=number)
    drifts = [Drift(results=results, index=index, expected=0.05, least_results=251) for index in indices]
    return TrendPeriod(begins_at=begins_at, results=results, drifts=dict(zip(QUANTITIES, drifts, strict=True)))


TRENDS = Trends(
    model_id="test-1.0.0",
    reference="523 films of <somewhere>",
    least_results=251,
    marks={"moderate": 0.1, "large": 0.25},
    periods=(week(0, 300, 0.02, 0.15, 0.31), week(1, 40, None, None, None), week(2, 1400, 0.04, 0.12, 0.4)),
)


def test_the_chart_has_a_line_for_each_quantity_and_a_gap_for_too_few():
    """A period without an index breaks the line; the thresholds are drawn whatever the values are."""
    chart = draw_trends(TRENDS)
    assert [len(line.points) for line in chart.lines] == [1, 1] * 3
    assert [mark.label for mark in chart.marks] == ["moderate", "large"]
    assert all(TOP <= mark.at <= BOTTOM for mark in chart.marks)
    assert [tick.label for tick in chart.x_ticks] == ["03-02", "03-09", "03-16"]
    calm = Trends(
        model_id="m", reference="r", least_results=251, marks=TRENDS.marks, periods=(week(0, 300, 0.01, 0.01, 0.01),)
    )
    assert all(TOP <= mark.at <= BOTTOM for mark in draw_trends(calm).marks)


def test_the_section_says_what_it_cannot_tell():
    """The text comes first; the table says where there were too few; what a bundle says is escaped."""
    page = make_templates().get_template("trends.html.jinja")
    text = page.render(trends=TRENDS, trend_chart=draw_trends(TRENDS), quantities=QUANTITIES)
    assert text.index("cannot tell whether answers are right") < text.index("<svg")
    assert "below 251 a week none is given" in text
    assert "523 films of &lt;somewhere&gt;" in text
    rows = [
        re.findall(r'class="number"[^>]*>([^<]+)<', row)
        for row in re.findall(r'<tr><th scope="row".*?</tr>', text, re.DOTALL)
    ]
    assert rows == [
        ["2026-03-16", "1,400", "0.04 stable", "0.12 moderate", "0.40 large"],
        ["2026-03-09", "40", "too few", "too few", "too few"],
        ["2026-03-02", "300", "0.02 stable", "0.15 moderate", "0.31 large"],
    ]


@pytest.mark.parametrize(
    ("reference", "said"), [(None, "does not say what the films were like"), ("three films", "too few films")]
)
def test_without_a_usable_reference(reference, said):
    """A bundle that keeps no reference, or one too small, has no chart but a sentence that says why."""
    trends = replace(TRENDS, reference=reference, least_results=None, periods=())
    page = make_templates().get_template("trends.html.jinja")
    text = page.render(trends=trends, trend_chart=draw_trends(trends), quantities=QUANTITIES)
    assert said in text and "<svg" not in text

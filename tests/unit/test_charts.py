"""Charts of the operations page: where bars, lines and labels go."""

import datetime as dt

from xray_batch.web.charts import BOTTOM, LEFT, RIGHT, TOP, Series, stacked_bars, time_lines

BEGIN = dt.datetime(2026, 3, 1, 8, tzinfo=dt.UTC)
HOURS = [BEGIN + dt.timedelta(hours=number) for number in range(4)]


def series(*values, name="normal"):
    """Return a series of the four hours."""
    return Series(name=name, style=name, values=values)


def test_bars_stand_upon_each_other():
    """The feet of a series are the tops of the one before; an hour without results has no bar."""
    chart = stacked_bars("c", "t", HOURS, [series(10, None, 30, 0), series(30, None, 10, 0, name="late")], "results")
    assert [bar.style for bar in chart.bars] == ["normal", "late", "normal", "late"]
    first, second, *_ = chart.bars
    assert first.y + first.height == BOTTOM
    assert (second.y + second.height, second.x) == (first.y, first.x)
    assert (round(second.y, 6), round(second.height / first.height, 6)) == (TOP, 3.0)
    assert all(bar.x >= LEFT and bar.x + bar.width <= RIGHT for bar in chart.bars)
    assert list(chart.bar_paths) == ["normal", "late"]
    assert chart.bar_paths["late"].count("z") == 2
    assert chart.description == "80 results in 4 hours, at most 40 in one."


def test_labels_are_round_values_up_to_the_greatest():
    """Counts in whole numbers; the greatest label is not below the greatest value."""
    for greatest, labels in [
        (1, ["0", "1"]),
        (7, ["0", "2", "4", "6", "8"]),
        (40, ["0", "10", "20", "30", "40"]),
        (1201, ["0", "500", "1,000", "1,500"]),
    ]:
        chart = stacked_bars("c", "t", HOURS, [series(greatest, 0, 0, 0)], "results")
        assert [tick.label for tick in chart.y_ticks] == labels
        assert (chart.y_ticks[0].at, round(chart.y_ticks[-1].at, 6)) == (BOTTOM, TOP)


def test_a_line_is_broken_where_there_is_no_value():
    """Hours without results are a gap, not a zero."""
    chart = time_lines("c", "t", HOURS, [series(0.5, 0.25, None, 0.1)])
    assert [len(line.points) for line in chart.lines] == [2, 1]
    assert chart.lines[0].points[1][1] > chart.lines[0].points[0][1]
    assert chart.unit == "s"


def test_times_are_in_the_unit_that_suits_the_longest():
    """Seconds, minutes or hours."""
    assert [time_lines("c", "t", HOURS, [series(1, 2, 3, longest)]).unit for longest in (59, 600, 7200)] == [
        "s",
        "min",
        "h",
    ]


def test_a_chart_without_values_says_so():
    """It has labels and nothing else, whichever it is."""
    for chart in (
        stacked_bars("c", "t", HOURS, [series(None, None, None, None)], "results"),
        time_lines("c", "t", HOURS, [series(None, None, None, None)]),
    ):
        assert chart.is_empty
        assert not chart.bars
        assert not chart.lines
        assert len(chart.y_ticks) > 1


def test_days_are_labelled_where_there_are_many_hours():
    """A week has one label for each midnight of this machine's clock, a few hours have the time."""
    week = [BEGIN + dt.timedelta(hours=number) for number in range(168)]
    chart = stacked_bars("c", "t", week, [series(*[1] * 168)], "results")
    assert len(chart.x_ticks) == 7
    assert all(len(tick.label) == len("03-02") and "-" in tick.label for tick in chart.x_ticks)
    short = stacked_bars("c", "t", HOURS, [series(1, 1, 1, 1)], "results")
    assert len(short.x_ticks) == 1
    assert ":00" in short.x_ticks[0].label

"""Charts over time as SVG: geometry is worked out here, a template draws it, the style sheet colours it."""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

#: Of the picture, in its own units; the style sheet gives it the width of its column.
WIDTH: Final = 480
HEIGHT: Final = 190

#: The field of the data.
LEFT: Final = 44
RIGHT: Final = WIDTH - 8
TOP: Final = 10
BOTTOM: Final = HEIGHT - 22

#: Lines across the field, at most.
_STEPS: Final = 4

#: A range this long or longer is labelled by days.
_DAYS: Final = 48

#: Units of time for labels: seconds in one.
_UNITS: Final = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One value for each hour, or other period; None where there is none."""

    name: str
    style: str  #: class of the style sheet
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float
    style: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Points that are joined; a point alone is drawn as a dot."""

    points: tuple[tuple[float, float], ...]
    style: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A label of an axis, and where it stands."""

    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """All that a template draws."""

    name: str  #: of its elements
    title: str
    description: str
    unit: str
    series: tuple[Series, ...]
    bars: tuple[Bar, ...]
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Tick, ...]  #: lines across the field at values that mean something, named above them
    is_empty: bool

    @property
    def bar_paths(self) -> Mapping[str, str]:
        """The bars of each style as one SVG path: hundreds of elements would take long to write and to read."""
        paths: dict[str, list[str]] = {}
        for bar in self.bars:
            path = f"M{bar.x:.1f} {bar.y:.1f}h{bar.width:.1f}v{bar.height:.1f}h{-bar.width:.1f}z"
            paths.setdefault(bar.style, []).append(path)
        return {style: "".join(parts) for style, parts in paths.items()}


def stacked_bars(name: str, title: str, hours: Sequence[dt.datetime], series: Sequence[Series], unit: str) -> Chart:
    """Draw a bar for each hour, the series upon each other."""
    sums = [sum(values) for values in zip(*([value or 0.0 for value in each.values] for each in series), strict=True)]
    top, ticks = _scale(max(sums, default=0.0), least_step=1.0)
    step = (RIGHT - LEFT) / max(len(hours), 1)
    bars = []
    for number in range(len(hours)):
        foot = 0.0
        for each in series:
            value = each.values[number] or 0.0
            if value:
                x = LEFT + number * step + step * 0.1
                y = _height_of(foot + value, top)
                height = _height_of(foot, top) - y
                bars.append(Bar(x=x, y=y, width=step * 0.8, height=height, style=each.style))
            foot += value
    text = f"{sum(sums):,.0f} {unit} in {len(hours)} hours, at most {max(sums, default=0.0):,.0f} in one."
    return Chart(
        name=name,
        title=title,
        description=text,
        unit=unit,
        series=tuple(series),
        bars=tuple(bars),
        lines=(),
        x_ticks=_time_ticks(hours),
        y_ticks=ticks,
        marks=(),
        is_empty=not any(sums),
    )


def time_lines(name: str, title: str, hours: Sequence[dt.datetime], series: Sequence[Series]) -> Chart:
    """Draw a line for each series of seconds, broken where there are none."""
    longest = _greatest(series)
    seconds, unit = next((entry for entry in _UNITS if longest >= entry[0]), _UNITS[-1])
    scaled = [
        Series(
            name=each.name,
            style=each.style,
            values=[None if value is None else value / seconds for value in each.values],
        )
        for each in series
    ]
    text = f"In {unit}, for {len(hours)} hours; the longest is {longest / seconds:,.3g} {unit}."
    return _lines(name, title, text, unit, scaled, _time_ticks(hours))


def index_lines(
    name: str, title: str, periods: Sequence[str], series: Sequence[Series], marks: Mapping[str, float]
) -> Chart:
    """Draw a line for each series over named periods, with lines across at values that have a name."""
    step = (RIGHT - LEFT) / max(len(periods), 1)
    every = max(len(periods) // 6, 1)
    ticks = [Tick(at=LEFT + (n + 0.5) * step, label=label) for n, label in enumerate(periods) if n % every == 0]
    text = f"For {len(periods)} periods; the greatest is {_greatest(series):,.2f}."
    return _lines(name, title, text, "", series, tuple(ticks), marks)


def _lines(
    name: str,
    title: str,
    description: str,
    unit: str,
    series: Sequence[Series],
    x_ticks: tuple[Tick, ...],
    marks: Mapping[str, float] | None = None,
) -> Chart:
    marks = marks or {}
    top, y_ticks = _scale(max([_greatest(series), *marks.values()]))
    lines = []
    for each in series:
        points: list[tuple[float, float]] = []
        for number, value in enumerate([*each.values, None]):
            if value is not None:
                points.append((_middle_of(number, len(each.values)), _height_of(value, top)))
            elif points:
                lines.append(Line(points=tuple(points), style=each.style))
                points = []
    return Chart(
        name=name,
        title=title,
        description=description,
        unit=unit,
        series=tuple(series),
        bars=(),
        lines=tuple(lines),
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        marks=tuple(Tick(at=_height_of(value, top), label=label) for label, value in marks.items()),
        is_empty=not lines,
    )


def _greatest(series: Sequence[Series]) -> float:
    return max((value for each in series for value in each.values if value is not None), default=0.0)


def _scale(greatest: float, least_step: float = 0.0) -> tuple[float, tuple[Tick, ...]]:
    """Return the value at the top of the field, and round values up to there."""
    magnitude = 10.0 ** math.floor(math.log10(greatest / _STEPS)) if greatest > 0 else 0.1
    step = magnitude * next((factor for factor in (1, 2, 5, 10) if greatest <= _STEPS * magnitude * factor), 10)
    step = max(step, least_step)
    count = max(math.ceil(greatest / step), 1)
    top = step * count
    return top, tuple(Tick(at=_height_of(n * step, top), label=f"{n * step:,.10g}") for n in range(count + 1))


def _height_of(value: float, top: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * value / top


def _middle_of(number: int, count: int) -> float:
    return LEFT + (RIGHT - LEFT) * (number + 0.5) / count


def _time_ticks(hours: Sequence[dt.datetime]) -> tuple[Tick, ...]:
    """Label hours, or days at their beginning, by this machine's clock."""
    ticks = []
    for number, hour in enumerate(hours):
        local = hour.astimezone()
        at = LEFT + (RIGHT - LEFT) * number / len(hours)
        if len(hours) < _DAYS and local.hour % 4 == 0:
            ticks.append(Tick(at=at, label=f"{local:%H:%M}"))
        elif len(hours) >= _DAYS and local.hour == 0:
            ticks.append(Tick(at=at, label=f"{local:%m-%d}"))
    return tuple(ticks)

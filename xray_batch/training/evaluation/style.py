"""How drawings look: one width, one type size, colours that colour-blind people can tell apart."""

from collections.abc import Callable
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Okabe and Ito, "Color Universal Design", 2008: told apart with every kind of colour vision.
BLACK: Final = "#000000"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREEN: Final = "#009E73"
BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
PURPLE: Final = "#CC79A7"
GRAY: Final = "#767676"

LABEL_COLORS: Final = {
    "normal": BLUE,
    "bacterial_pneumonia": VERMILION,
    "viral_pneumonia": ORANGE,
    "pneumonia": PURPLE,
}

#: Markers of the operating points, by their names.
POINT_MARKERS: Final = {"balanced": "o", "high sensitivity": "^", "high specificity": "s"}

_STYLE: Final[dict[Any, Any]] = {  # matplotlib types the keys as hundreds of literals
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRAY,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "figure.dpi": 160,
    "savefig.dpi": 160,
    "figure.facecolor": "white",
}

#: Stands at the foot of every drawing of a report, and under its films; heat maps have their own caption.
FOOTNOTE: Final = "xray-batch. Research use only. Not a medical device."

_FOOT_INCHES: Final = 0.14

SQUARE: Final = (4.8, 4.6)  #: inches
WIDE: Final = (7.2, 4.2)


def drawn(size: tuple[float, float], draw: Callable[[Axes], None]) -> Figure:
    """Draw on one pair of axes of `size` inches, in the common style."""

    def on_figure(figure: Figure) -> None:
        draw(figure.add_subplot())

    return drawn_figure(size, on_figure)


def drawn_figure(size: tuple[float, float], draw: Callable[[Figure], None]) -> Figure:
    """Draw on a figure of `size` inches, in the common style, with the disclaimer at its foot.

    Nothing is drawn by pyplot, which would keep every figure until the process ends.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size)
        foot = _FOOT_INCHES / size[1]
        figure.set_layout_engine("constrained", rect=(0, foot, 1, 1 - foot))
        draw(figure)
        figure.text(0.99, 0.01, FOOTNOTE, ha="right", va="bottom", fontsize=6.5, color=GRAY)
        figure.canvas.draw()
        return figure

"""One film under every stress and control."""

from typing import Final

from matplotlib.figure import Figure

from xray_batch.training.evaluation.style import GRAY, drawn_figure
from xray_batch.training.stress import CONTROLS, STRESSES, Film

_COLUMNS: Final = 5


def draw_stress_films(example: Film) -> Figure:
    """Draw small multiples of a film, shape (224, 224), values in [0, 1]: stresses first, then controls."""
    changes = STRESSES | CONTROLS
    rows = -(-len(changes) // _COLUMNS)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
        for axes in grid:
            axes.set_axis_off()
        for axes, (name, change) in zip(grid, changes.items(), strict=False):
            axes.imshow(change(example), cmap="gray", vmin=0, vmax=1)
            axes.set_title(name, fontsize=7.5, fontweight="normal", color=GRAY if name in CONTROLS else "black")

    return drawn_figure((7.2, 1.72 * rows), draw)

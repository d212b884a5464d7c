"""What was recorded while runs trained, as lines: over the steps, along the gradient, and until a target."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from videonorm.look import MUTED, PERCENT, STYLE
from videonorm.study.arms import Arms
from videonorm.study.recorded import Floats, Recorded, at_steps
from videonorm.study.scales import is_wide, logarithmic
from videonorm.sweep.cells import Cell
from videonorm.sweep.curves import Curve, draw_seeds
from videonorm.sweep.drawing import MOST_PANELS, empty_grid, panel_grid

MOST_STEPS = 3  # of a loss along the gradient that are drawn: the first, the last and one between
STEP_SIZE = "step_size"


def over_steps(arms: Arms, tables: Mapping[str, Recorded], *, phone: bool = False) -> Figure | None:
    """What the claim measures, at every step that it was recorded at; None where no run has two of them."""
    curves: dict[str, Curve] = {run: at_steps(of, arms.claim.measure) for run, of in tables.items()}
    curves = {run: curve for run, curve in curves.items() if len(curve[0])}
    if all(len(steps) < 2 for steps, _ in curves.values()):
        return None
    panels = arms.panels(curves)
    figure, grid = panel_grid(panels, phone)
    wide = is_wide(np.concatenate([values for _, values in curves.values()]))
    with matplotlib.rc_context(STYLE):
        for axes, cells in grid:
            for cell in cells:
                of = [curves[run.run] for run in cell.results if run.run in curves]
                draw_seeds(axes, of, 1.0, arms.drawing.colors[cell.arm])
            axes.set(xlabel="step", ylabel=str(arms.claim.measure.column).replace("_", " "))
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter("{x:,.0f}")
            if wide:
                logarithmic(axes, "y")
            axes.yaxis.set_tick_params(labelleft=True)
        arms.drawing.legend(figure)
    return figure


def along_gradient(
    arms: Arms, tables: Mapping[str, Recorded], column: str, *, phone: bool = False
) -> Figure | None:
    """A column against the size of a step along the gradient: a panel for each of a few steps of training.

    A line is the median over batches and seeds, its band from the least to the greatest.
    """
    cells = [cell for cell in arms.cells if any(run.run in tables for run in cell.results)]
    if not cells:
        return None
    trained = np.unique(np.concatenate([of.step for of in tables.values()]))
    at = np.unique(np.linspace(0, len(trained) - 1, min(MOST_STEPS, len(trained))).round().astype(int))
    several = len({arms.panel(cell) for cell in cells}) > 1
    panels: dict[tuple[float, str], list[Cell]] = {}
    for step in trained[at]:
        for cell in cells:
            title = f"After {step:,.0f} steps" + (f", {arms.panel(cell)}" if several else "")
            panels.setdefault((step, title), []).append(cell)
    kept = list(panels.items())[:MOST_PANELS]
    left_out = f"{len(kept)} of {len(panels)} panels." if len(kept) < len(panels) else ""
    figure, grid = empty_grid([title for (_, title), _ in kept], phone, left_out)
    wide = is_wide(np.concatenate([of.of[column] for of in tables.values()]))
    with matplotlib.rc_context(STYLE):
        for axes, ((step, _), of_panel) in zip(grid, kept, strict=True):
            for cell in of_panel:
                rows = [of for run in cell.results if (of := tables.get(run.run)) and step in of.step]
                if rows:
                    _band(axes, rows, step, column, arms.drawing.colors[cell.arm])
            logarithmic(axes, "x")
            if wide:
                logarithmic(axes, "y")
            if column == "loss_ratio":
                axes.axhline(1, color=MUTED, linewidth=1.2, linestyle=(0, (4, 2)))
            axes.set(xlabel="step size along the gradient", ylabel=column.replace("_", " "))
        arms.drawing.legend(figure)
    return figure


def _band(axes: Axes, runs: list[Recorded], step: float, column: str, color: str) -> None:
    sizes: Floats = np.concatenate([of.of[STEP_SIZE][of.step == step] for of in runs])
    values: Floats = np.concatenate([of.of[column][of.step == step] for of in runs])
    x, low, middle, high = [], [], [], []
    for size in np.unique(sizes):
        here = values[(sizes == size) & np.isfinite(values)]
        if here.size:
            x.append(size)
            low.append(here.min())
            middle.append(np.median(here))
            high.append(here.max())
    axes.plot(x, middle, color=color, marker="o", markersize=3.5, linewidth=1.8)
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def until_target(arms: Arms, *, phone: bool = False) -> Figure | None:
    """The share of the runs that have not reached the target, against steps."""
    panels = arms.panels(arms.measured)
    if not panels:
        return None
    figure, grid = panel_grid(panels, phone)
    with matplotlib.rc_context(STYLE):
        for axes, cells in grid:
            for cell in cells:
                of = [arms.measured[run.run] for run in cell.results if run.run in arms.measured]
                reached = sorted(one.value for one in of if not one.censored)
                end = max(one.value for one in of)
                steps = [0.0, *reached, end]
                left = [1.0, *(1 - (i + 1) / len(of) for i in range(len(reached)))]
                color = arms.drawing.colors[cell.arm]
                axes.step(steps, [*left, left[-1]], where="post", color=color, linewidth=2)
                if len(reached) < len(of):
                    axes.plot(end, left[-1], "|", color=color, markersize=10, markeredgewidth=2)
            axes.set(xlabel="steps", ylabel="runs not yet there", ylim=(-0.02, 1.05))
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=PERCENT))
        arms.drawing.legend(figure)
    return figure

"""Which pictures a sweep has, and what is true of each: no more than its cells, curves and tests say."""

from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.figure import Figure

from videonorm.look import CI, PERCENT, span
from videonorm.sweep import heat_maps, iso_memory, plots
from videonorm.sweep.cells import Cell, clips_seen, has_memory, with_result
from videonorm.sweep.curves import Curves, top1_against, training_loss, validation_top1
from videonorm.sweep.drawing import BATCH_SIZE, LENGTH, Drawing
from videonorm.sweep.length_matrix import LengthMatrix

Picture = tuple[Callable[..., Figure | None], str]  # how it is drawn, and its caption


def pictures(cells: Sequence[Cell], curves: Curves, matrix: LengthMatrix | None = None) -> dict[str, Picture]:
    """By name, in the order of the report; there must be a cell with a result."""
    done, drawing = with_result(cells), Drawing(cells)
    several = any(len(cell.done) > 1 for cell in done)
    all_clips = clips_seen(done)
    unequal = f" The cells saw {span(all_clips)} training clips." if len(all_clips) > 1 else ""
    seeds = " Thin lines are single seeds, thick ones their means." if several else ""
    share = " Each step of a run is taken to have cost the same."
    of_top1 = "Top-1 on the validation videos while training, "
    found: dict[str, Picture] = {}
    if iso_memory.has_area(cells):
        found["iso_memory"] = partial(iso_memory.iso_memory, cells), _iso_memory(cells)
    found |= _accuracy(cells, drawing, several, unequal)
    if len({cell.shape for cell in done}) > 1:  # else the next picture has all arms in one panel
        found |= {
            "top1_against_seconds": (
                partial(top1_against, "seconds", cells, curves),
                f"{of_top1}against the time in training steps.{share}{seeds}",
            ),
            "top1_against_frames": (
                partial(top1_against, "frames", cells, curves),
                f"{of_top1}against the frames that the model had seen.{seeds}",
            ),
        }
    found |= {
        "validation_top1": (
            partial(validation_top1, cells, curves),
            f"Top-1 on the validation videos while training.{seeds}",
        ),
        "training_loss": (
            partial(training_loss, cells, curves),
            f"Loss of the training batches, averaged over a twentieth of the run.{seeds}",
        ),
    }
    if len({cell.shape for cell in done}) > 1 or len(done) == 1:
        failed = any(not result.done for cell in cells for result in cell.results)
        found["heat_map"] = (
            partial(heat_maps.heat_map, cells),
            f"Top-1 in percent for each T and B{', and the clips seen' if unequal else ''}. Empty squares "
            f"{'were not run or have failed' if failed else 'were not run'}.",
        )
    if matrix:
        equal = f" The last column is of {matrix.frames} frames a video." if matrix.frames else ""
        found["test_lengths"] = (
            partial(heat_maps.length_maps, cells, matrix),
            "Top-1 in percent of each model, tested with clips of every length. Framed is the length that it "
            f"was trained with.{equal}",
        )
    memory = ", and the most GPU memory that a run took" if has_memory(cells) else ""
    found["speed_and_memory"] = (
        partial(plots.speed_and_memory, cells),
        f"Training clips per second, on a logarithmic scale{memory}.",
    )
    return found


def _accuracy(cells: Sequence[Cell], drawing: Drawing, several: bool, unequal: str) -> dict[str, Picture]:
    """Against T, B and further axes of numbers, each where it varies."""
    dots = ", small dots single seeds" if several else ""
    ceilings = any(cell.best_possible_top1 for cell in drawing.done)
    ceiling = " Above the dashed line no model can come with clips that short." if ceilings else ""
    bars = f" Bars are {CI[:-3]} intervals{dots}.{ceiling}"
    found: dict[str, Picture] = {}
    for axis in drawing.axes():
        if axis is LENGTH:
            name, against = "num_frames", "the clip length T"
        elif axis is BATCH_SIZE:
            name, against = "batch_size", "the batch size B, clips per device and step"
        else:
            name, against = axis.title, axis.title
        what = "The same top-1" if found else "Top-1 on the validation videos"
        caption = f"{what} against {against}.{'' if found else bars}{unequal}"
        found[f"accuracy_against_{name}"] = partial(plots.accuracy, cells, axis), caption
    return found


def _iso_memory(cells: Sequence[Cell]) -> str:
    points = "Top-1 in percent at the T and B of each cell."
    if iso_memory.is_of_memory(cells):
        error = f"{100 * iso_memory.fit_error(cells):.1f}{PERCENT}"
        return (
            f"{points} Curves are of equal peak memory: a + s B T, fitted to the peaks that were measured, "
            f"which lie within {error} of it."
        )
    why = (
        "the peaks of these cells do not tell how memory grows"
        if has_memory(cells)
        else "peak memory was not measured on a GPU"
    )
    return f"{points} Along a curve a step has equally many frames of each device; {why}."

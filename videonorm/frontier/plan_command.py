"""``videonorm frontier plan``: what fits in a GPU's memory, before anything is run."""

import argparse
from collections.abc import Iterable
from typing import Any

from videonorm.errors import UserError
from videonorm.frontier.options import check_out, new_memory_parser, questions
from videonorm.interruption import stops
from videonorm.options import Parser

DESCRIPTION = """\
How many clips of each length fit in a GPU's memory, norm by norm: the largest batch whose training step
does. The step of the recipe's own model, precision and optimizer is traced on fake tensors, which need no
memory and no GPU.
"""
EXAMPLES = """\
What is counted: weights, gradients, optimizer state, the clips, all that forward and backward make and keep,
at the fullest moment of a step of one process. What is not: the context of CUDA, workspaces of cuDNN, the
holes that an allocator leaves, buckets of DDP, the frames that a loader sends ahead. --reserve_gib is kept
free for them: an allowance, not a measurement.

--norms takes overlays: files, or the names of those in norm/ beside the recipe.

examples:
  videonorm frontier plan -c configs/kinetics400_r50.yaml --memory_gib 80 --num_frames 8 16 32 64
  videonorm frontier plan -c configs/kinetics400_r50.yaml --memory_gib 24 --norms bn gn_ws gn_ws_recompute
"""


def parser() -> Parser:
    return new_memory_parser(
        "plan",
        DESCRIPTION,
        EXAMPLES,
        memory="of the GPU (default: that of the first one here)",
        reserve="kept for what is not counted (default: %(default)g)",
        reserve_gib=2.0,
        out="the table; beside it a picture of the same name",
    )


def run(options: argparse.Namespace) -> None:
    """Plan what the options ask for.

    Raises:
        UserError: an option, the recipe or an overlay cannot be used, or no batch fits.
        Stopped: by Ctrl-C or SIGTERM.
    """
    from videonorm.files import write
    from videonorm.frontier.picture import iso_memory
    from videonorm.frontier.plan import Point, plan, sentence, write_csv
    from videonorm.look import as_png

    memory = options.memory_gib or _memory_here()
    if memory <= options.reserve_gib:
        raise UserError(f"--memory_gib ({memory:g}) must be above --reserve_gib ({options.reserve_gib:g})")
    check_out(options.out)
    with stops("nothing was written"):
        asked = questions(options)
        points = list(_progress(plan(asked, memory, options.reserve_gib), len(asked)))
    write_csv(Point, points, options.out)
    if not any(point.max_batch_size for point in points):
        least = min(points, key=lambda point: point.gib_fixed + point.gib_peak_per_clip)
        raise UserError(
            f"--memory_gib ({memory:g}) must hold a batch beside --reserve_gib ({options.reserve_gib:g}): of "
            f"{least.num_frames} frames of {least.crop_size} x {least.crop_size} {least.norm} takes "
            f"{least.gib_peak_per_clip:.3g} GiB a clip and {least.gib_fixed:.3g} for itself"
        )
    picture = options.out.with_suffix(".png")
    write(picture, as_png(iso_memory(points)))
    _show(points)
    print(f"\n{sentence(points)}\n{options.out}, {picture}")


def _memory_here() -> float:
    import torch

    if not torch.cuda.is_available():
        raise UserError("--memory_gib must be given: there is no GPU here")
    return torch.cuda.get_device_properties(0).total_memory / 2**30


def _progress(points: Iterable[Any], total: int) -> Iterable[Any]:
    import sys

    from rich.progress import track

    return track(points, "Tracing steps", total, transient=True, disable=not sys.stdout.isatty())


def _show(points: list[Any]) -> None:
    """A row a norm, T and crop."""
    from rich.table import Table

    from videonorm.look import new_console

    console = new_console()
    table = Table(header_style="bold", border_style="dim")
    for heading in ("norm", "T", "crop", "largest B", "GiB at it", "saved/clip", "peak/clip", "fixed"):
        table.add_column(heading, justify="left" if heading == "norm" else "right", no_wrap=heading == "norm")
    for point in points:
        gib = (point.gib_at_max, point.gib_saved_per_clip, point.gib_peak_per_clip, point.gib_fixed)
        size = str(point.max_batch_size or "none")
        row = (point.norm, str(point.num_frames), str(point.crop_size), size, *(f"{of:.3f}" for of in gib))
        table.add_row(*row)
    console.print(table)

"""``videonorm frontier statistics``: whether batch norm has enough clips, before anything is trained."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videonorm.errors import UserError
from videonorm.frontier.options import MANY, add_out, check_out, each_once, new_parser
from videonorm.options import Parser, positive_integer

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    from videonorm.frontier.recipe import Recipe
    from videonorm.frontier.statistics import Cell, Layer

VIDEOS = 16  # of a batch that is looked at: many, so that batch norms before a layer disturb it little

DESCRIPTION = """\
How many independent values batch norm would take its statistics of, layer by layer, at each T and B: a few
batches of the recipe's own training clips pass through its network, and no step is trained. The frames of a
clip are correlated, so that longer clips do not make good for fewer of them.
"""
EXAMPLES = """\
n_eff of the mean is Var(x) / Var(mean of a batch); that of the variance is 1 + 2 Mean(V)^2 / Var(V), V the
variance of a batch: of so many independent (normal) values, the statistics would be as noisy. Every B follows
from one pass, as the clips of a batch are independent; several clips of one video (data.clips_per_video) are
not, and count as one. A layer is short where the lesser of the two is below 5 in its median channel; where
half of the layers are, BN is expected to fail. The output says what that rests on.

The network is the recipe's as it starts, with batch norms in the places of its norms, whichever they are;
with --ckpt it is that of a checkpoint of `videonorm fit`, trained, with the norms it has.

Written into a sweep's folder as statistics.csv, it stands in the sweep's report, beside what happened.

examples:
  videonorm frontier statistics -c configs/motion_r10.yaml --num_frames 8 16 --batch_size 2 4 8
  videonorm frontier statistics -c configs/kinetics400_r50.yaml --num_frames 8 64 --batch_size 1 2 8
  videonorm frontier statistics -c configs/motion_r10.yaml --num_frames 8 16 --batch_size 2 4 \
    --out runs/quickstart/statistics.csv
"""


def parser() -> Parser:
    options, recipe = new_parser("statistics", DESCRIPTION, EXAMPLES)
    recipe.add_argument(
        "--span",
        type=positive_integer,
        metavar="N",
        help="source frames of every clip, its T times its stride (default: the recipe's stride for every T)",
    )
    recipe.add_argument("--batch_size", **MANY, help="clips of a batch (default: the recipe's)")
    recipe.add_argument(
        "--ckpt", type=Path, metavar="FILE", help="a trained network in place of the recipe's"
    )
    recipe.add_argument(
        "--batches",
        type=positive_integer,
        default=8,
        metavar="N",
        help=f"to look at, of {VIDEOS} clips each (default: %(default)s)",
    )
    add_out(options, "statistics", "a row a layer; beside it a picture of the same name")
    return options


def run(options: argparse.Namespace) -> None:
    """Look at what the options ask for.

    Raises:
        UserError: an option, the recipe, its videos or a checkpoint cannot be used.
        Stopped: by Ctrl-C or SIGTERM.
    """
    from rich.progress import track

    from videonorm.files import write
    from videonorm.frontier.picture import independent_values
    from videonorm.frontier.plan import write_csv
    from videonorm.frontier.recipe import read_recipe
    from videonorm.frontier.statistics import FEW, ORIGIN, Layer, cells, sentences
    from videonorm.interruption import stops
    from videonorm.look import as_png

    check_out(options.out)
    lengths, sizes = (each_once(name, getattr(options, name)) for name in ("num_frames", "batch_size"))
    if options.ckpt:
        from videonorm.evaluation.checkpoint import load_checkpoint

        load_checkpoint(options.ckpt)  # a mistake is found at once
    rows: list[Layer] = []
    with stops("nothing was written"):
        recipe = read_recipe(options.config)
        lengths = lengths or [recipe.num_frames]
        strides = [_stride(recipe, num_frames, options.span) for num_frames in lengths]
        shapes = list(zip(lengths, strides, strict=True))
        for shape in track(shapes, "Passing clips", transient=True, disable=not sys.stdout.isatty()):
            rows += _look(recipe, *shape, sizes or [recipe.batch_size], options)
        write_csv(Layer, rows, options.out)
        picture = options.out.with_suffix(".png")
        write(picture, as_png(independent_values(cells(rows), FEW)))
    _show(cells(rows))
    print("", *sentences(cells(rows)), "", ORIGIN, f"{options.out}, {picture}", sep="\n")


def _stride(recipe: Recipe, num_frames: int, span: int | None) -> int | None:
    """Source frames from one frame of a clip to the next; None by a recipe that takes them by time."""
    if span is None:
        stride: int | None = recipe.settings["data"]["frame_stride"]
        return stride
    if span % num_frames:
        raise UserError(f"--span ({span}) must be a multiple of --num_frames ({num_frames})")
    return span // num_frames


def _look(
    recipe: Recipe,
    num_frames: int,
    frame_stride: int | None,
    sizes: list[int],
    options: argparse.Namespace,
) -> list[Layer]:
    """Have `fit` pass clips of a length through the network."""
    import tempfile

    import numpy as np

    from videonorm.frontier.fitting import feed
    from videonorm.frontier.statistics import layers

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "moments.npz"
        arguments: dict[str, Any] = {"backbone": recipe.backbone, "passes": options.batches, "out": str(out)}
        arguments["ckpt"] = options.ckpt and str(options.ckpt)
        recorder = {"class_path": "videonorm.frontier.networks.Recorder", "init_args": arguments}
        data: dict[str, int | None] = {"num_frames": num_frames, "batch_size": VIDEOS, "clips_per_video": 1}
        if options.span:
            data |= {"frame_stride": frame_stride, "frames_per_second": None}
        feed(recipe.settings, recorder, Path(folder), data=data, trainer={"max_steps": options.batches})
        with np.load(out) as moments:
            network = str(options.ckpt or "as initialized, with batch norms")
            return layers(dict(moments), num_frames, frame_stride, sizes, network)


def _show(of: list[Cell]) -> None:
    """A row a T and B."""
    from rich.table import Table

    from videonorm.look import new_console

    console = new_console()
    table = Table(header_style="bold", border_style="dim")
    for heading in ("T", "B", "n_eff mean", "n_eff variance", "worst layer", "short layers", "batch norm"):
        table.add_column(heading, justify="left" if heading in ("worst layer", "batch norm") else "right")
    for cell in of:
        medians = (f"{cell.median(name):.1f}" for name in ("n_eff_mean", "n_eff_variance"))
        worst = f"{cell.worst.n_eff:.1f}  {cell.worst.layer}"
        shape, short = (str(cell.num_frames), str(cell.batch_size)), f"{cell.short} of {len(cell.layers)}"
        verdict = "refuses" if cell.is_refused else "will fail" if cell.fails else "should work"
        table.add_row(*shape, *medians, worst, short, verdict)
    console.print(table)
    first = of[0].layers[0]
    console.print(f"Medians over the layers. {first.clips} clips of each length; network {first.network}.")

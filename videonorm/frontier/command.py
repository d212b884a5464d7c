"""``videonorm frontier plan``: what fits in a GPU's memory, before anything is run."""

import argparse
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from videonorm.errors import UserError
from videonorm.machine import available_cores
from videonorm.messages import did_you_mean
from videonorm.options import Parser, positive_integer

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


def parser() -> argparse.ArgumentParser:
    options = Parser(prog="videonorm frontier plan", description=DESCRIPTION, epilog=EXAMPLES)
    recipe = options.add_argument_group("what is trained")
    many: dict[str, Any] = {"nargs": "+", "metavar": "N", "type": positive_integer}
    recipe.add_argument(
        "-c", "--config", type=Path, action="append", required=True, metavar="FILE", help="recipe, overlays"
    )
    recipe.add_argument(
        "--norms", nargs="+", metavar="NORM", help="overlays (default: the recipe's own norm)"
    )
    recipe.add_argument("--num_frames", **many, help="frames of a clip (default: the recipe's)")
    recipe.add_argument("--crop_size", **many, help="pixels of a clip's side (default: the recipe's)")
    memory = options.add_argument_group("memory")
    memory.add_argument(
        "--memory_gib", type=_gib, metavar="GIB", help="of the GPU (default: that of the first one here)"
    )
    memory.add_argument(
        "--reserve_gib",
        type=_gib,
        default=2.0,
        metavar="GIB",
        help="kept for what is not counted (default: 2)",
    )
    result = options.add_argument_group("result")
    result.add_argument(
        "--out",
        type=Path,
        default=Path("runs/frontier/plan.csv"),
        metavar="FILE.csv",
        help="the table; beside it a picture of the same name (default: %(default)s)",
    )
    return options


def _gib(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"({text}) must be a number above 0")
    return value


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an option, the recipe or an overlay cannot be used, or no batch fits.
    """
    name, *given = argv or ["--help"]
    if name in ("-h", "--help"):
        given = ["--help"]
    elif name != "plan":
        raise UserError(f"frontier ({name}) must be plan{did_you_mean(name, ['plan'])}")
    options = parser().parse_args(given)

    from videonorm.files import check_writable, write
    from videonorm.frontier.picture import as_png, iso_memory
    from videonorm.frontier.plan import Question, plan, sentence, write_csv
    from videonorm.frontier.recipe import read_recipe

    memory = options.memory_gib or _memory_here()
    if memory <= options.reserve_gib:
        raise UserError(f"--memory_gib ({memory:g}) must be above --reserve_gib ({options.reserve_gib:g})")
    try:
        check_writable(options.out)
    except OSError as error:
        raise UserError(
            f"--out ({options.out}) must be a file that can be written: {error.strerror}"
        ) from error
    overlays = _overlays(options.config[0], options.norms)
    crop_sizes, lengths = (_each_once(name, getattr(options, name)) for name in ("crop_size", "num_frames"))
    with ThreadPoolExecutor(available_cores()) as pool:  # each waits for a process
        recipes = list(pool.map(read_recipe, ([*options.config, *overlay] for overlay in overlays.values())))
    questions = []
    for norm, recipe in zip(overlays, recipes, strict=True):
        for crop_size in crop_sizes or [recipe.crop_size]:
            for num_frames in lengths or [recipe.num_frames]:
                questions.append(Question(norm, recipe, num_frames, crop_size))
    points = list(_progress(plan(questions, memory, options.reserve_gib), len(questions)))
    write_csv(points, options.out)
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


def _overlays(recipe: Path, norms: list[str] | None) -> dict[str, list[Path]]:
    """Overlays by the norm that they are named for."""
    if norms is None:
        return {"recipe": []}
    found: dict[str, list[Path]] = {}
    for norm in _each_once("norms", norms) or []:
        path = Path(norm) if norm.endswith((".yaml", ".yml")) else recipe.parent / "norm" / f"{norm}.yaml"
        if not path.is_file():
            known = sorted(of.stem for of in (recipe.parent / "norm").glob("*.yaml"))
            raise UserError(
                f"--norms ({norm}) must be a file or one of {', '.join(known)}{did_you_mean(norm, known)}"
            )
        found[path.stem] = [path]
    return found


def _each_once(name: str, values: list[Any] | None) -> list[Any] | None:
    if values and len(set(values)) < len(values):
        raise UserError(f"--{name} ({' '.join(map(str, values))}) must not repeat a value")
    return values


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
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(header_style="bold", border_style="dim")
    for heading in ("norm", "T", "crop", "largest B", "GiB at it", "saved/clip", "peak/clip", "fixed"):
        table.add_column(heading, justify="left" if heading == "norm" else "right", no_wrap=heading == "norm")
    for point in points:
        gib = (point.gib_at_max, point.gib_saved_per_clip, point.gib_peak_per_clip, point.gib_fixed)
        size = str(point.max_batch_size or "none")
        row = (point.norm, str(point.num_frames), str(point.crop_size), size, *(f"{of:.3f}" for of in gib))
        table.add_row(*row)
    console.print(table)

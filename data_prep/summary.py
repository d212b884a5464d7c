"""Draw the class balance, durations, frame rates and picture sizes of manifests as one picture. Where a
manifest lacks the columns duration_seconds, fps, width, height, or has empty cells in them, the videos are
opened.

examples:
  python data_prep/summary.py k400/train.csv k400/val.csv
  python data_prep/summary.py k400_256/train.csv --out k400_256.svg
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from script import add_work, manifests_parser, printable, run, writing
from workers import Failed, run_all

from videonorm.errors import UserError
from videonorm.files import check_writable, new_file
from videonorm.options import Parser

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rows import Row

INK, MUTED, BLUE = "#1a1d21", "#7d848c", "#0072B2"
SPLIT_COLORS = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")  # Okabe & Ito, 2008
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": MUTED,
    "grid.alpha": 0.25,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "videonorm",
}
DRAWN = ("duration_seconds", "fps", "width", "height")  # columns of a manifest
WRITABLE = "a file that can be written"
NAMED = 24  # classes that have room for their names
SIZES = 8  # picture sizes told apart


class Video(NamedTuple):
    """What is drawn of one row; None where its file cannot be read."""

    split: str
    class_name: str  # "" without a label
    duration_seconds: float | None = None
    fps: float | None = None
    size: tuple[int, int] | None = None  # width and height


def parser() -> Parser:
    options = manifests_parser("summary.py", __doc__)
    options.add_argument(
        "--out",
        type=Path,
        default=Path("summary.png"),
        metavar="FILE",
        help="the picture, .png or .svg (default: summary.png)",
    )
    add_work(options, time_limit_seconds=60)
    return options


def main(argv: list[str]) -> int:
    """Run the script; returns the exit code. Raises UserError for what it is given and cannot use."""
    options = parser().parse_args(argv)
    suffix = options.out.suffix.lower()
    if suffix not in (".png", ".svg"):
        raise UserError(f"--out ({options.out}) must end in .png or .svg")

    from rows import read_all

    with writing(options.out, WRITABLE):
        check_writable(options.out)
    videos = _videos(read_all(options.manifests, options.root), options)
    figure = draw(videos)
    metadata = {"Date": None} if suffix == ".svg" else None  # the same picture is the same file
    with writing(options.out, WRITABLE), new_file(options.out) as aside:
        figure.savefig(aside, format=suffix[1:], dpi=150, metadata=metadata)
    print(f"{headline(videos)}: {printable(options.out)}")
    return 0


def _videos(rows: "Sequence[Row]", options: Namespace) -> list[Video]:
    """The rows as they are drawn; opens the files whose columns do not tell all."""
    from rows import say_bad
    from video import probe

    unknown = [row.path for row in rows if None in (_positive(row.cells.get(name)) for name in DRAWN)]
    paths = list(dict.fromkeys(unknown))
    facts = {}
    for number, result in run_all(probe, paths, "Opening videos", options):
        if isinstance(result, Failed):
            say_bad(paths[number], result.reason)
        else:
            facts[paths[number]] = {name: cell for name, cell in result.cells().items() if cell}
    videos = []
    for row in rows:
        known = {**row.cells, **facts.get(row.path, {})}
        duration, rate, width, height = (_positive(known.get(name)) for name in DRAWN)
        if duration is not None:
            end = duration if row.end_seconds is None else min(duration, row.end_seconds)
            duration = max(end - (row.start_seconds or 0.0), 0.0)
        name = known.get("class_name") or known.get("label", "")
        size = (round(width), round(height)) if width and height else None
        videos.append(Video(row.split, name, duration, rate, size))
    return videos


def _positive(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def headline(videos: Sequence[Video]) -> str:
    splits = Counter(video.split for video in videos)
    hours = sum(video.duration_seconds or 0.0 for video in videos) / 3600
    parts = [f"{len(videos):,} videos"]
    if len(splits) > 1:
        parts[0] += f" ({', '.join(f'{split} {count:,}' for split, count in splits.items())})"
    classes = len({video.class_name for video in videos} - {""})
    if classes:
        parts.append(f"{classes:,} classes")
    parts.append(f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:,.1f} minutes")
    unread = sum(video.size is None for video in videos)
    if unread:
        parts.append(f"{unread:,} cannot be read")
    return ", ".join(parts)


def draw(videos: Sequence[Video]) -> "Figure":
    """Four panels: videos a class, and histograms of duration, frame rate and picture size."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 7), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08))
        grid = figure.add_gridspec(2, 3, height_ratios=(1.1, 1))
        figure.suptitle(_plain(headline(videos)), x=0.01, ha="left", fontsize=13, fontweight="bold")
        _classes(figure.add_subplot(grid[0, :]), videos)
        durations = [v.duration_seconds for v in videos if v.duration_seconds is not None]
        _histogram(figure.add_subplot(grid[1, 0]), "Duration", "seconds", durations)
        _histogram(
            figure.add_subplot(grid[1, 1]),
            "Frame rate",
            "frames per second",
            [v.fps for v in videos if v.fps],
        )
        _sizes(figure.add_subplot(grid[1, 2]), videos)
    return figure


def _classes(axes: "Axes", videos: Sequence[Video]) -> None:
    """A bar for each class, the largest first, stacked by split."""
    import numpy as np

    totals = Counter(video.class_name for video in videos if video.class_name)
    axes.set_title("Videos of each class")
    if not totals:
        _empty(axes, "no labels")
        return
    names = sorted(totals, key=lambda name: (-totals[name], name))
    splits = list(dict.fromkeys(video.split for video in videos))
    counts = Counter((video.split, video.class_name) for video in videos)
    bottom = np.zeros(len(names))
    width = min(0.8, 0.08 * len(names)) if len(names) <= NAMED else 1.0  # many gaps would flicker
    for split, color in zip(splits, SPLIT_COLORS * len(splits), strict=False):
        heights = np.array([counts[split, name] for name in names])
        axes.bar(range(len(names)), heights, width, bottom=bottom, color=color, label=_plain(split))
        bottom += heights
    if len(names) <= NAMED:
        labels = [_short(name, 24) for name in names]
        turned: dict[str, Any] = (
            {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(names) > 8 else {}
        )
        axes.set_xticks(range(len(names)), labels, **turned)
        axes.tick_params(axis="x", length=0)
    else:
        most, least = names[0], names[-1]
        axes.set_xlabel(
            f"{len(names)} classes, from {_short(most, 40)} ({totals[most]:,}) "
            f"to {_short(least, 40)} ({totals[least]:,})"
        )
    axes.set_xlim(-0.5, len(names) - 0.5)
    _whole_numbers(axes)
    if len(splits) > 1:
        axes.legend(frameon=False, ncols=len(splits), loc="lower right", bbox_to_anchor=(1, 1), borderpad=0)


def _histogram(axes: "Axes", title: str, unit: str, values: Sequence[float]) -> None:
    """Counts over ``values``; the longest tail of up to 1 % shares the last bar."""
    import numpy as np

    axes.set_title(title)
    if not values:
        _empty(axes, "unknown")
        return
    array = np.array(values)
    top = float(np.quantile(array, 0.99, method="higher"))
    middle = float(np.median(array))
    low = float(array.min())
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 60, 120, 600, np.inf) if (top - low) / s <= 40)
    if not np.isfinite(step):
        step = (top - low) / 40
    first = round(low / step) - 2  # bars stand around round numbers: 29.97 is beside 30
    edges = (np.arange(first, round(top / step) + 4) - 0.5) * step
    counts, _ = np.histogram(np.minimum(array, edges[-1] - step / 2), edges)
    axes.bar(edges[:-1], counts, step, align="edge", color=BLUE)
    axes.axvline(middle, color=INK, linewidth=1, linestyle=":")
    spread = f"median {middle:.4g}, {low:.4g} to {array.max():.4g}"
    axes.set_title(spread, loc="right", fontsize=9, fontweight="normal")
    if counts.max() > 100 * counts[counts > 0].min():
        axes.set_yscale("log")  # or what is rare would not be seen
        axes.set_ylim(bottom=0.7)
    over = int((array > edges[-1]).sum())
    axes.set_xlabel(f"{unit}; last bar: {over:,} above" if over else unit)
    axes.set_xlim(max(edges[0], 0.0), edges[-1])
    axes.set_ylabel("videos, log scale" if axes.get_yscale() == "log" else "videos")
    _whole_numbers(axes)


def _sizes(axes: "Axes", videos: Sequence[Video]) -> None:
    """A bar for each of the most frequent picture sizes."""
    counts = Counter(video.size for video in videos if video.size)
    axes.set_title("Picture size")
    if not counts:
        _empty(axes, "unknown")
        return
    bars = [(f"{width} x {height}", count) for (width, height), count in counts.most_common(SIZES)]
    if len(counts) > SIZES:
        rest = counts.total() - sum(count for _, count in bars)
        bars.append((f"{len(counts) - SIZES} others", rest))
    axes.grid(False)
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.barh(range(len(bars)), [count for _, count in bars], 0.7, color=BLUE)
    for row, (_, count) in enumerate(bars):
        percent = 100 * count / counts.total()
        text = "under 0.1 %" if percent < 0.1 else f"{percent:.{int(percent < 10)}f} %"
        axes.text(count, row, f" {text}", va="center", color=INK)
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.set_ylim(max(len(bars), 4) - 0.5, -0.5)
    axes.set_xlim(0, 1.25 * max(count for _, count in bars))
    axes.set_xticks([])
    axes.set_xlabel("width x height, share of the videos")


def _whole_numbers(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _empty(axes: "Axes", text: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)


def _plain(text: str) -> str:
    """Text as it is: a dollar sign would start a formula."""
    return printable(text).replace("$", r"\$")


def _short(name: str, length: int) -> str:
    name = _plain(name)
    return name if len(name) <= length else f"{name[: length - 1]}…"


if __name__ == "__main__":
    run(main)

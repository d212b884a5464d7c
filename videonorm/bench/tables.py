"""The tables that sum up a benchmark's rows, for the terminal and as Markdown for the README.

The README's are made of the files in `results/`, which are from real GPUs, and of nothing else:
`python -m videonorm.bench.tables` prints them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from videonorm.bench.names import HOST_ARMS, NORMS, OPS, PASSES, PEERS
from videonorm.bench.records import NOT_INSTALLED, Row, read_rows

RESULTS = Path(__file__).parent / "results"
LARGE_BYTES = 64e6
UNMEASURED = "No GPU has run these benchmarks yet: speed and memory of the kernels are unmeasured.\n"
UNMEASURED_LOADING = "No results of these benchmarks are kept yet: the speed of loading is unmeasured.\n"


class Target(NamedTuple):
    """What is asked of ours in the loading benchmarks."""

    name: str
    asked: str
    column: str
    form: str
    loader: str
    files: str
    clips_per_video: str = "1"


_RATIO, _SHARE = "ratio_to_pytorchvideo", "share_of_decode_limit"
TARGETS: dict[str, list[Target]] = {
    "decode": [],
    "loader": [
        Target("clips/s over PyTorchVideo's", "at least 4", _RATIO, "{:.1f}", "ours_pyav", "gop250"),
        Target("... transform on the CPU", "", _RATIO, "{:.1f}", "ours_pyav_cpu", "gop250"),
        Target("... four clips a decode", "at least 8", _RATIO, "{:.1f}", "ours_pyav", "gop250", "4"),
        Target("... transcoded files", "at least 10", _RATIO, "{:.1f}", "ours_pyav", "gop12_fast"),
        Target("... packed frames", "at least 40", _RATIO, "{:.1f}", "ours_packed", "packed"),
        Target("... transform on the CPU", "", _RATIO, "{:.1f}", "ours_packed_cpu", "packed"),
        Target("share of the decode limit", "at least 0.8", _SHARE, "{:.2f}", "ours_pyav", "gop250"),
        Target("... transcoded files", "at least 0.8", _SHARE, "{:.2f}", "ours_pyav", "gop12_fast"),
        Target("first batch, s", "at most 3", "first_batch_seconds", "{:.2f}", "ours_pyav", "gop250"),
        Target("a worker grows by MiB", "below 19", "memory_growth_mib", "{:.1f}", "ours_pyav", "gop12_fast"),
    ],
    "views": [Target("CPU time of PyTorchVideo over ours", "at least 9", _RATIO, "{:.1f}", "ours", "gop250")],
}


class Table(NamedTuple):
    title: str
    header: list[str]
    rows: list[list[str]]


def new_tables(rows: Sequence[Row]) -> list[Table]:
    """Those that sum up the rows of a benchmark, without empty ones."""
    if not rows:
        return []
    if "op" in rows[0]:
        tables = [kernel_table(rows), pass_table(rows)]
    elif "net" in rows[0]:
        tables = [step_table(rows), clips_table(rows)]
    elif "part" in rows[0]:
        tables = [host_table(rows)]
    else:
        tables = [target_table(rows), loading_table(rows)]
    return [table for table in tables if table.rows]


def times_table(rows: Sequence[Row]) -> Table:
    """Microseconds of each contender for an operator, forward + backward, a line a case."""
    names = list(dict.fromkeys(row["contender"] for row in rows if row["microseconds"]))
    rows = [row for row in rows if row["direction"] in ("forward", "backward")]
    line = {"op": "{op}", "shape": "{shape}", "dtype": "{dtype}"}

    def cell(found: Sequence[Row]) -> str:
        return "+".join(f"{float(row['microseconds']):.0f}" for row in found)

    return _pivot("Microseconds, forward + backward", line, rows, names, cell)


def kernel_table(rows: Sequence[Row]) -> Table:
    """Ours against its peers: medians over the cases of a line, with the smallest and the largest."""
    ours = [row for row in rows if row["contender"].startswith("ours") and row["direction"] == "both"]
    ours.sort(key=lambda row: list(OPS).index(row["op"]))
    peers = [peer for peer in PEERS if any(row[f"speedup_over_{peer}"] for row in ours)]

    def line(row: Row) -> tuple[str, ...]:
        clips = "" if row["op"] == "ws" else row["shape"].partition("x")[0]
        return row["op"], row["contender"], row["dtype"], clips

    body = []
    for (op, contender, *dtype_and_clips), found in _groups(ours, line).items():
        name = OPS[op] + (", stage by stage" if contender == "ours_grouped" else "")
        speedups = [_spread(_figures(found, f"speedup_over_{peer}"), "{:.2f}") for peer in peers]
        body.append([name, *dtype_and_clips, str(len(found)), _shares(found), *speedups])
    title = "Ours, forward + backward: share of the copy rate above 64 MB, how many times as fast as peers"
    return Table(title, ["op", "dtype", "clips", "cases", "of copy", *(PEERS[peer] for peer in peers)], body)


def pass_table(rows: Sequence[Row]) -> Table:
    """The share of the copy rate of our single passes."""
    passes = [row for row in _large(rows) if row["direction"] in PASSES]
    passes.sort(key=lambda row: PASSES.index(row["direction"]))
    groups = _groups(passes, lambda row: (row["direction"], OPS[row["op"]], row["dtype"]))
    body = [[*names, str(len(found)), _shares(found)] for names, found in groups.items()]
    return Table("Our passes on tensors above 64 MB", ["pass", "op", "dtype", "cases", "of copy"], body)


def step_table(rows: Sequence[Row]) -> Table:
    """Milliseconds and peak memory of training steps, norm beside norm."""
    steps = [row for row in rows if not row["max_clips"]]
    line = {"net": "{net}", "pixels": "{crop_size}", "T x B": "{num_frames} x {batch_size}"}
    title = "A training step: time, peak memory, bytes saved for backward per clip"
    return _pivot(title, line, steps, _contenders(steps), _step)


def clips_table(rows: Sequence[Row]) -> Table:
    """The most clips whose training step fits in memory, norm beside norm."""
    found = [row | {"gib": float(row["memory_limit_mib"]) / 1024} for row in rows if row["max_clips"]]
    line = {"net": "{net}", "pixels": "{crop_size}", "T": "{num_frames}", "GiB": "{gib:.1f}"}
    title = "The most clips whose training step fits"
    return _pivot(title, line, found, _contenders(found), lambda rows: str(rows[-1]["max_clips"]))


def host_table(rows: Sequence[Row]) -> Table:
    """Microseconds in which the host queues a part and all its directions, arm beside arm."""
    found = [row | {"text": _part(row["part"])} for row in rows if row["direction"] == "all"]
    arms = [name for name in HOST_ARMS if any(row["arm"] == name for row in found)]

    def cell(of_arm: Sequence[Row]) -> str:
        (row,) = of_arm
        ratio = f" ({float(row['ratio_to_bn']):.2f})" if row["ratio_to_bn"] and row["arm"] != "bn" else ""
        return f"{float(row['microseconds']):,.0f}{ratio}"

    title = "Microseconds of the host, forward and backward, of a step its optimizer too (ratio to bn)"
    return _pivot(title, {"": "{text}"}, found, arms, cell, lambda row: [row["arm"]])


def target_table(rows: Sequence[Row]) -> Table:
    """What is asked of ours, and what was measured: medians over the cases, with the worst and the best."""
    body = []
    for target in TARGETS[loading_kind(rows)]:
        case = (target.loader, target.files, target.clips_per_video)
        of_case = [r for r in rows if (r["loader"], r["files"], r.get("clips_per_video", "1")) == case]
        if values := _figures(of_case, target.column):
            body.append([target.name, target.asked, str(len(values)), _spread(values, target.form)])
    return Table(f"Asked of ours, and measured{_quick(rows)}", ["", "asked", "cases", "measured"], body)


def loading_table(rows: Sequence[Row]) -> Table:
    """Clips a second of loaders, or CPU milliseconds of decoding or of views: contender by case."""
    column, scale, form, title = {
        "decode": ("cpu_seconds_per_clip", 1e3, "{:.1f}", "CPU milliseconds of a clip"),
        "loader": ("clips_per_second", 1, "{:.1f}", "Clips a second"),
        "views": ("cpu_seconds_per_video", 1e3, "{:.0f}", "CPU milliseconds of all views of a video"),
    }[loading_kind(rows)]
    timed = [dict(row) for row in rows if not row.get("memory_clips")]
    names = list(dict.fromkeys(row["case"] for row in timed if row["short_side"]))
    names = names or list(dict.fromkeys(row["case"] for row in timed))
    for row in timed:
        if row.get("clips_per_video", "1") != "1":
            row["files"] += f", {row['clips_per_video']} clips a decode"

    def cell(found: Sequence[Row]) -> str:
        return _failure(found[-1]) or form.format(scale * float(found[-1][column]))

    def columns(row: Row) -> list[str]:  # a limit has no short side: it is that of every one
        return [name for name in names if row["case"] in (name, name.partition("@")[0])]

    line = {"loader": "{loader}", "files": "{files}"}
    return _pivot(f"{title}{_quick(rows)}", line, timed, names, cell, columns)


def loading_kind(rows: Sequence[Row]) -> str:
    """Which benchmark of loading made the rows."""
    if "cpu_seconds_per_video" in rows[0]:
        return "views"
    return "loader" if "first_batch_seconds" in rows[0] else "decode"


def _quick(rows: Sequence[Row]) -> str:
    return " (quick: not for publication)" if rows[0]["quick"] == "1" else ""


def readme_tables(folder: Path = RESULTS) -> str:
    """What the README says of the kernels' cost: the tables of every result file, or that there is none."""
    return _readme(folder, "contender") or UNMEASURED


def readme_loading_tables(folder: Path = RESULTS) -> str:
    """What the README says of loading: what was asked and measured, or that nothing was."""
    return _readme(folder, "loader") or UNMEASURED_LOADING


def readme_host_table(folder: Path = RESULTS) -> str:
    """What the README says of the host's time."""
    return _readme(folder, "part")


def _readme(folder: Path, column: str) -> str:
    """The tables of the result files that have the column."""
    parts = []
    for path in sorted(folder.glob("*.csv")):
        rows = read_rows(path)
        if rows and column in rows[0]:
            parts += [as_markdown(table) for table in new_tables(rows)]
            parts.append(f"{made_on(rows[0])} All figures: `videonorm/bench/results/{path.name}`.\n")
    return "\n".join(parts)


def made_on(row: Row) -> str:
    """The columns of ORIGIN or LOADING_ORIGIN in a sentence."""
    names = ("torch", "cuda", "driver", "av", "torchcodec", "decord", "pytorchvideo", "videonorm")
    versions = [f"{name} {row[name]}" for name in names if row.get(name)]
    return f"Made on {row['device']}; {', '.join(versions)}; commit {row['commit'][:12] or 'unknown'}."


def as_markdown(table: Table) -> str:
    lines = [f"{table.title}:", "", f"| {' | '.join(table.header)} |"]
    lines.append("|--|" + "--:|" * (len(table.header) - 1))
    lines += [f"| {' | '.join(row)} |" for row in table.rows]
    return "\n".join(lines) + "\n"


def _pivot(
    title: str,
    line: Mapping[str, str],
    rows: Iterable[Row],
    names: Sequence[str],
    cell: Callable[[Sequence[Row]], str],
    columns: Callable[[Row], Sequence[str]] = lambda row: [row["contender"]],
) -> Table:
    """A line for the rows that are alike in the texts of `line`, and in it a cell for each of the names.

    Args:
        line: the text of a row under a heading, with the row's columns in braces.
        cell: draws those rows of a line that are of one name.
        columns: the names that a row is of.
    """
    lines = _groups(rows, lambda row: tuple(text.format_map(row) for text in line.values()))
    body = []
    for key, of_line in lines.items():
        found = [[row for row in of_line if name in columns(row)] for name in names]
        body.append([*key, *(cell(of_name) if of_name else "" for of_name in found)])
    return Table(title, [*line, *names], body)


def _groups(rows: Iterable[Row], key: Callable[[Row], tuple[str, ...]]) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _contenders(rows: Sequence[Row]) -> list[str]:
    return [name for name in NORMS if any(row["contender"] == name for row in rows)]


def _step(found: Sequence[Row]) -> str:
    row = found[-1]
    if row["error"]:
        return _failure(row)
    parts = [f"{float(row['milliseconds']):.1f} ms"]
    if row["peak_memory_mib"]:
        parts.append(f"{float(row['peak_memory_mib']) / 1024:.2f} GiB")
    if row["saved_bytes_per_clip"]:
        parts.append(f"{float(row['saved_bytes_per_clip']) / 1e6:.1f} MB")
    return ", ".join(parts)


def _part(part: str) -> str:
    """A part of the host's work in words; the norm is each arm's own."""
    return {"ws": "filters of a stage", "step": "step"}.get(part) or OPS[part].replace("GN", "norm")


def _failure(row: Row) -> str:
    """Why a row has no figures, in a cell: the kind of error, or which package is missing."""
    error = str(row["error"])
    return error if error.startswith(NOT_INSTALLED) else error.partition(":")[0]


def _figures(rows: Iterable[Row], column: str) -> list[float]:
    return [float(row[column]) for row in rows if row[column]]


def _large(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if float(row["minimal_bytes"] or 0) >= LARGE_BYTES]


def _shares(rows: Sequence[Row]) -> str:
    return _spread([100 * share for share in _figures(_large(rows), "share_of_copy_rate")], "{:.0f} %")


def _spread(values: Sequence[float], form: str) -> str:
    """Median (smallest to largest)."""
    ordered = sorted(values)
    if not ordered:
        return ""
    middle = form.format(median(ordered))
    extremes = f" ({form.format(ordered[0])} to {form.format(ordered[-1])})"
    return middle if len(ordered) == 1 else middle + extremes


if __name__ == "__main__":
    print(f"{readme_tables()}\n{readme_host_table()}\n{readme_loading_tables()}", end="")

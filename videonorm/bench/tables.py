"""The tables that sum up a benchmark's rows, for the terminal and as Markdown for the README.

The README's are made of the files in `results/`, which are from real GPUs, and of nothing else:
`python -m videonorm.bench.tables` prints them.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from videonorm.bench.command import OPS, STEP_CONTENDERS
from videonorm.bench.records import Row, read_rows

RESULTS = Path(__file__).parent / "results"
LARGE_BYTES = 64e6
UNMEASURED = "No GPU has run these benchmarks yet: speed and memory of the kernels are unmeasured.\n"

PASSES = ("moments", "apply", "sums", "grad_x")
PEERS = {
    "bn": "batch norm",
    "torch_gn": "torch's GN",
    "torch_gn_autocast": "torch's GN, autocast",
    "torch_compile": "torch's GN, compiled",
    "timm": "timm's WS",
    "var_mean": "var_mean WS",
}
OP_NAMES = {"gn": "GN", "gn_relu": "GN + ReLU", "gn_add_relu": "GN + add + ReLU", "ws": "WS"}

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


def kernel_table(rows: Sequence[Row]) -> Table:
    """Ours against its peers: medians over the cases of a line, with the smallest and the largest."""
    ours = [row for row in rows if row["contender"].startswith("ours") and row["direction"] == "both"]
    lines: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in sorted(ours, key=lambda row: OPS.index(row["op"])):
        lines.setdefault((row["op"], row["contender"], row["dtype"], clips(row)), []).append(row)
    peers = [peer for peer in PEERS if any(row[f"speedup_over_{peer}"] for row in ours)]
    body = []
    for (op, contender, dtype, batch_size), found in lines.items():
        name = OP_NAMES[op] + (", stage by stage" if contender == "ours_grouped" else "")
        cells = [name, dtype, batch_size, str(len(found)), _shares(found)]
        for peer in peers:
            speedups = [row[f"speedup_over_{peer}"] for row in found if row[f"speedup_over_{peer}"]]
            cells.append(_spread(map(float, speedups), "{:.2f}"))
        body.append(cells)
    title = "Ours, forward + backward: share of the copy rate above 64 MB, how many times as fast as peers"
    return Table(title, ["op", "dtype", "clips", "cases", "of copy", *(PEERS[peer] for peer in peers)], body)


def pass_table(rows: Sequence[Row]) -> Table:
    """The share of the copy rate of our single passes."""
    lines: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["direction"] in PASSES and float(row["minimal_bytes"]) >= LARGE_BYTES:
            lines.setdefault((row["direction"], row["op"], row["dtype"]), []).append(row)
    body = [
        [name, OP_NAMES[op], dtype, str(len(found)), _shares(found)]
        for (name, op, dtype), found in sorted(lines.items(), key=lambda line: PASSES.index(line[0][0]))
    ]
    return Table("Our passes on tensors above 64 MB", ["pass", "op", "dtype", "cases", "of copy"], body)


def step_table(rows: Sequence[Row]) -> Table:
    """Milliseconds and peak memory of training steps, norm beside norm."""
    steps = [row for row in rows if not row["max_clips"]]
    names = _contenders(steps)
    cells = {(_place(row), row["contender"]): _step(row) for row in steps}
    body = []
    for place in dict.fromkeys(map(_place, steps)):
        net, crop_size, num_frames, batch_size = place
        shown = [cells.get((place, name), "") for name in names]
        body.append([net, crop_size, f"{num_frames} x {batch_size}", *shown])
    title = "A training step: time, peak memory, bytes saved for backward per clip"
    return Table(title, ["net", "pixels", "T x B", *names], body)


def clips_table(rows: Sequence[Row]) -> Table:
    """The most clips whose training step fits in memory, norm beside norm."""
    found = [row for row in rows if row["max_clips"]]
    names = _contenders(found)
    cells = {(_place(row)[:3], row["contender"]): row["max_clips"] for row in found}
    memory = {_place(row)[:3]: f"{float(row['memory_limit_mib']) / 1024:.1f}" for row in found}
    body = [[*place, memory[place], *(cells.get((place, name), "") for name in names)] for place in memory]
    return Table("The most clips whose training step fits", ["net", "pixels", "T", "GiB", *names], body)


def target_table(rows: Sequence[Row]) -> Table:
    """What is asked of ours, and what was measured: medians over the cases, with the worst and the best."""
    body = []
    for target in TARGETS[loading_kind(rows)]:
        values = [
            float(row[target.column])
            for row in rows
            if row["loader"] == target.loader and row["files"] == target.files and row[target.column]
            if row.get("clips_per_video", "1") == target.clips_per_video
        ]
        if values:
            body.append([target.name, target.asked, str(len(values)), _spread(values, target.form)])
    return Table(f"Asked of ours, and measured{_quick(rows)}", ["", "asked", "cases", "measured"], body)


def loading_table(rows: Sequence[Row]) -> Table:
    """Clips a second of loaders, or CPU milliseconds of decoding or of views: contender by case."""
    kind = loading_kind(rows)
    figures = {
        "decode": ("cpu_seconds_per_clip", 1e3, "{:.1f}", "CPU milliseconds of a clip"),
        "loader": ("clips_per_second", 1, "{:.1f}", "Clips a second"),
        "views": ("cpu_seconds_per_video", 1e3, "{:.0f}", "CPU milliseconds of all views of a video"),
    }
    column, scale, form, title = figures[kind]
    timed = [row for row in rows if not row.get("memory_clips")]
    names = list(dict.fromkeys(row["case"] for row in timed if row["short_side"]))
    names = names or list(dict.fromkeys(row["case"] for row in timed))
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in timed:
        several = row.get("clips_per_video", "1") != "1"
        files = f"{row['files']}, {row['clips_per_video']} clips a decode" if several else row["files"]
        cell = str(row["error"]).partition(":")[0] or form.format(scale * float(row[column]))
        line = lines.setdefault((row["loader"], files), {})
        # A limit has no short side: it is that of every one.
        line |= {name: cell for name in names if row["case"] in (name, name.partition("@")[0])}
    body = [[*who, *(line.get(name, "") for name in names)] for who, line in lines.items()]
    return Table(f"{title}{_quick(rows)}", ["loader", "files", *names], body)


def loading_kind(rows: Sequence[Row]) -> str:
    """Which benchmark of loading made the rows."""
    if "cpu_seconds_per_video" in rows[0]:
        return "views"
    return "loader" if "first_batch_seconds" in rows[0] else "decode"


def _quick(rows: Sequence[Row]) -> str:
    return " (quick: not for publication)" if rows[0]["quick"] == "1" else ""


def readme_tables(folder: Path = RESULTS) -> str:
    """What the README says of the kernels' cost: the tables of every result file, or that there is none."""
    parts = []
    for path, rows in _results(folder):
        if "contender" in rows[0]:
            tables = (kernel_table, pass_table) if "op" in rows[0] else (step_table, clips_table)
            parts += _parts(path, rows, [table(rows) for table in tables])
    return "\n".join(parts) or UNMEASURED


def readme_loading_tables(folder: Path = RESULTS) -> str:
    """What the README says of loading: what was asked and measured, or that nothing was."""
    parts = []
    for path, rows in _results(folder):
        if "loader" in rows[0]:
            parts += _parts(path, rows, [target_table(rows), loading_table(rows)])
    return "\n".join(parts) or UNMEASURED_LOADING


def _results(folder: Path) -> Iterable[tuple[Path, list[Row]]]:
    return [(path, rows) for path in sorted(folder.glob("*.csv")) if (rows := read_rows(path))]


def _parts(path: Path, rows: Sequence[Row], tables: Sequence[Table]) -> list[str]:
    shown = [as_markdown(table) for table in tables if table.rows]
    return [*shown, f"{made_on(rows[0])} All figures: `videonorm/bench/results/{path.name}`.\n"]


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


def clips(row: Row) -> str:
    """N of a row's shape; nothing for ws."""
    return "" if row["op"] == "ws" else str(row["shape"]).partition("x")[0]


def _contenders(rows: Sequence[Row]) -> list[str]:
    return [name for name in STEP_CONTENDERS if any(row["contender"] == name for row in rows)]


def _place(row: Row) -> tuple[str, str, str, str]:
    return row["net"], row["crop_size"], row["num_frames"], row["batch_size"]


def _step(row: Row) -> str:
    if row["error"]:
        return str(row["error"]).partition(":")[0]
    parts = [f"{float(row['milliseconds']):.1f} ms"]
    if row["peak_memory_mib"]:
        parts.append(f"{float(row['peak_memory_mib']) / 1024:.2f} GiB")
    if row["saved_bytes_per_clip"]:
        parts.append(f"{float(row['saved_bytes_per_clip']) / 1e6:.1f} MB")
    return ", ".join(parts)


def _shares(rows: Sequence[Row]) -> str:
    large = [row for row in rows if float(row["minimal_bytes"]) >= LARGE_BYTES]
    return _spread((100 * float(row["share_of_copy_rate"]) for row in large), "{:.0f} %")


def _spread(values: Iterable[float], form: str) -> str:
    """Median (smallest to largest)."""
    ordered = sorted(values)
    if not ordered:
        return ""
    middle = form.format(median(ordered))
    extremes = f" ({form.format(ordered[0])} to {form.format(ordered[-1])})"
    return middle if len(ordered) == 1 else middle + extremes


if __name__ == "__main__":
    print(f"{readme_tables()}\n{readme_loading_tables()}", end="")

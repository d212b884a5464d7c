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


def readme_tables(folder: Path = RESULTS) -> str:
    """What the README says of the kernels' cost: the tables of every result file, or that there is none."""
    parts = []
    for path in sorted(folder.glob("*.csv")):
        rows = read_rows(path)
        tables = (kernel_table, pass_table) if "op" in rows[0] else (step_table, clips_table)
        parts += [as_markdown(table(rows)) for table in tables if table(rows).rows]
        parts.append(f"{made_on(rows[0])} All figures: `videonorm/bench/results/{path.name}`.\n")
    return "\n".join(parts) or UNMEASURED


def made_on(row: Row) -> str:
    """The columns of ORIGIN in a sentence."""
    versions = [f"{name} {row[name]}" for name in ("torch", "cuda", "driver", "videonorm") if row[name]]
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
    print(readme_tables(), end="")

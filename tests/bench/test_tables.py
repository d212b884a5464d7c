"""The README's tables are drawn from results files alone."""

from videonorm.bench import kernels, step
from videonorm.bench.records import Records
from videonorm.bench.tables import UNMEASURED, kernel_table, pass_table, readme_tables

ORIGIN = {"device": "NVIDIA H100", "torch": "2.11", "cuda": "13.0", "driver": "580.1", "videonorm": "0.1.0"}
ORIGIN["commit"] = "0123456789abcdef"


def kernel_row(shape, speedup, share, **changes):
    case = {"op": "gn_relu", "dtype": "bfloat16", "contender": "ours", "direction": "both"}
    figures = {"microseconds": 10.0, "minimal_bytes": 10**8, "share_of_copy_rate": share}
    return ORIGIN | case | figures | {"shape": shape, "speedup_over_bn": speedup} | changes


KERNEL_ROWS = [
    kernel_row("8x64x8x56x56", 1.5, 0.9),
    kernel_row("8x64x4x56x56", 1.7, 0.8),
    kernel_row("8x64x2x56x56", 1.25, 0.1, minimal_bytes=10**6),
    kernel_row("1x64x2x56x56", 3.0, 0.7),
    kernel_row("8x64x8x56x56", None, 0.93, direction="apply"),
    kernel_row("8x64x8x56x56", 1.1, 0.5, contender="torch_gn"),
    kernel_row("8x64x8x56x56", None, None, contender="bn", microseconds=None, error="RuntimeError: no"),
]


def write(path, columns, rows):
    with Records(path, columns) as records:
        records.add(rows)
    return records.rows


def test_kernel_table(tmp_path):
    rows = write(tmp_path / "kernels.csv", kernels.COLUMNS, KERNEL_ROWS)
    table = kernel_table(rows)
    assert table.header == ["op", "dtype", "clips", "cases", "of copy", "batch norm"]
    assert table.rows == [
        ["GN + ReLU", "bfloat16", "8", "3", "85 % (80 % to 90 %)", "1.50 (1.25 to 1.70)"],
        ["GN + ReLU", "bfloat16", "1", "1", "70 %", "3.00"],
    ]
    assert pass_table(rows).rows == [["apply", "GN + ReLU", "bfloat16", "1", "93 %"]]


def test_readme_tables(tmp_path):
    assert readme_tables(tmp_path) == UNMEASURED
    write(tmp_path / "h100_kernels.csv", kernels.COLUMNS, KERNEL_ROWS)
    place = ORIGIN | {"net": "i3d-50", "crop_size": 224, "num_frames": 32}
    figures = {
        "batch_size": 4,
        "milliseconds": 51.25,
        "peak_memory_mib": 2560,
        "saved_bytes_per_clip": 3_000_000,
    }
    rows = [
        place | figures | {"contender": "bn"},
        place | {"batch_size": 4, "contender": "gn", "error": "OutOfMemoryError: CUDA out of memory."},
        place | {"contender": "bn", "max_clips": 60, "memory_limit_mib": 81920},
        place | {"contender": "gn_ws_recompute", "max_clips": 78, "memory_limit_mib": 81920},
    ]
    write(tmp_path / "h100_step.csv", step.COLUMNS, rows)
    text = readme_tables(tmp_path)
    assert "| GN + ReLU | bfloat16 | 8 | 3 | 85 % (80 % to 90 %) | 1.50 (1.25 to 1.70) |" in text
    assert "| i3d-50 | 224 | 32 x 4 | 51.2 ms, 2.50 GiB, 3.0 MB | OutOfMemoryError |" in text
    assert "| i3d-50 | 224 | 32 | 80.0 | 60 | 78 |" in text
    assert (
        "Made on NVIDIA H100; torch 2.11, cuda 13.0, driver 580.1, videonorm 0.1.0; commit 0123456789ab."
        in text
    )
    assert text.count("All figures: `videonorm/bench/results/h100_") == 2

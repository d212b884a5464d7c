"""The README's tables are drawn from results files alone."""

from videonorm.bench import decode, kernels, loader, step, views
from videonorm.bench.loading import medians, new_case
from videonorm.bench.records import Records
from videonorm.bench.tables import (
    UNMEASURED,
    UNMEASURED_LOADING,
    kernel_table,
    loading_table,
    pass_table,
    readme_loading_tables,
    readme_tables,
    target_table,
)
from videonorm.bench.trial import Trial

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


LOADING_ORIGIN = {"device": "AMD EPYC, 2 cores", "torch": "2.15", "av": "18.1", "decord": "0.6.0"}
LOADING_ORIGIN |= {"pytorchvideo": "0.1.5", "videonorm": "0.1.0", "commit": "0123456789abcdef", "quick": 0}


def loader_rows():
    trials = []

    def add(name, clip, side, files, clips_per_second, clips_per_video=1, error="E: no"):
        figures = {"clips_per_second": clips_per_second, "first_batch_seconds": 0.5}
        case = new_case(name, clip, side, files) | {"clips_per_video": clips_per_video}
        trials.append(Trial(case, 1, [figures if clips_per_second else {"error": error}]))

    add("limit_disposable", (8, 8), None, "gop250", 50.0)
    add("limit_disposable", (32, 2), None, "gop250", 40.0)
    for clip, clips_per_second in (((8, 8), 8.0), ((32, 2), 5.0)):
        add("pytorchvideo_pyav", clip, 128, "gop250", clips_per_second)
        add("ours_pyav", clip, 128, "gop250", 5 * clips_per_second)
        add("ours_pyav", clip, 128, "gop250", 10 * clips_per_second, 4)
    add("ours_packed", (8, 8), 128, "packed", 400.0)
    add("torchcodec", (8, 8), 128, "gop250", None)
    add("torchcodec", (32, 2), 128, "gop250", None, error="not installed: torchcodec")
    memory = {"clips_per_video": 1, "memory_clips": 5000, "memory_growth_mib": 3.5}
    rows = [*medians(trials), new_case("ours_pyav", (8, 8), 128, "gop12_fast") | memory]
    loader.compare(rows)
    return [LOADING_ORIGIN | row for row in rows]


def test_loading_tables(tmp_path):
    rows = write(tmp_path / "epyc_loader.csv", loader.COLUMNS, loader_rows())
    assert loading_table(rows).header == ["loader", "files", "8x8@128", "32x2@128"]
    assert loading_table(rows).rows == [
        ["limit_disposable", "gop250", "50.0", "40.0"],
        ["pytorchvideo_pyav", "gop250", "8.0", "5.0"],
        ["ours_pyav", "gop250", "40.0", "25.0"],
        ["ours_pyav", "gop250, 4 clips a decode", "80.0", "50.0"],
        ["ours_packed", "packed", "400.0", ""],
        ["torchcodec", "gop250", "E", "not installed: torchcodec"],
    ]
    assert target_table(rows).rows == [
        ["clips/s over PyTorchVideo's", "at least 4", "2", "5.0 (5.0 to 5.0)"],
        ["... four clips a decode", "at least 8", "2", "10.0 (10.0 to 10.0)"],
        ["... packed frames", "at least 40", "1", "50.0"],
        ["share of the decode limit", "at least 0.8", "2", "0.71 (0.62 to 0.80)"],
        ["first batch, s", "at most 3", "2", "0.50 (0.50 to 0.50)"],
        ["a worker grows by MiB", "below 19", "1", "3.5"],
    ]
    assert readme_tables(tmp_path) == UNMEASURED
    text = readme_loading_tables(tmp_path)
    assert "| ours_pyav | gop250, 4 clips a decode | 80.0 | 50.0 |" in text
    assert "Made on AMD EPYC, 2 cores; torch 2.15, av 18.1, decord 0.6.0, pytorchvideo 0.1.5" in text
    assert text.endswith("All figures: `videonorm/bench/results/epyc_loader.csv`.\n")


def test_decode_and_views_tables(tmp_path):
    assert readme_loading_tables(tmp_path) == UNMEASURED_LOADING
    case = LOADING_ORIGIN | new_case("ours_pyav", (8, 8), 128, "gop250")
    decoded = [
        case | {"case": "8x8", "short_side": None, "loader": "limit", "cpu_seconds_per_clip": 0.06},
        case | {"loader": "ours_pyav", "cpu_seconds_per_clip": 0.07, "ratio_to_pytorchvideo": 2.5},
    ]
    rows = write(tmp_path / "decode.csv", decode.COLUMNS, decoded)
    assert loading_table(rows).rows == [["limit", "gop250", "60.0"], ["ours_pyav", "gop250", "70.0"]]
    assert not target_table(rows).rows
    viewed = [
        case | {"quick": 1, "loader": "ours", "cpu_seconds_per_video": 0.1, "ratio_to_pytorchvideo": 12.0}
    ]
    rows = write(tmp_path / "views.csv", views.COLUMNS, viewed)
    assert loading_table(rows).rows == [["ours", "gop250", "100"]]
    assert loading_table(rows).title.endswith("(quick: not for publication)")
    assert target_table(rows).rows == [["CPU time of PyTorchVideo over ours", "at least 9", "1", "12.0"]]
    assert readme_loading_tables(tmp_path).count("All figures:") == 2

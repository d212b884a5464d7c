"""`videonorm bench kernels` on the CPU: that it compares like with like, and writes down what it found."""

from contextlib import nullcontext
from math import prod
from types import SimpleNamespace

import pytest
import torch

from videonorm.bench import contenders, kernels
from videonorm.bench.command import main
from videonorm.bench.contenders import filter_contenders, norm_contenders
from videonorm.bench.kernels import COLUMNS, measure, parser, select_cases
from videonorm.bench.names import PEERS
from videonorm.bench.records import read_rows
from videonorm.bench.sites import filter_stages, norm_sites
from videonorm.bench.timing import Clock

SHAPE = (1, 64, 2, 3, 3)
NAMES = ("ours", "bn", "torch_gn", "torch_gn_autocast", "copy")


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock(torch.device("cpu"))


@pytest.fixture
def cases(monkeypatch):
    monkeypatch.setattr(kernels, "QUICK_SHAPES", (SHAPE[1:],))
    return lambda *options: select_cases(parser().parse_args(["--quick", *options]))


def test_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(kernels, "QUICK_SHAPES", (SHAPE[1:],))
    monkeypatch.setattr(kernels, "QUICK_WIDTH", 2)
    path = tmp_path / "kernels.csv"
    main(["kernels", "--device", "cpu", "--quick", "--repeats", "1", "--batch_size", "1", "--out", str(path)])
    rows = read_rows(path)
    assert list(rows[0]) == list(COLUMNS)
    assert not any(row["error"] for row in rows)
    assert {row["op"] for row in rows} == {"gn", "gn_relu", "gn_add_relu", "ws"}
    directions = {"forward", "backward", "both"}
    assert {(row["contender"], row["direction"]) for row in rows if row["op"] == "gn_relu"} == {
        *((name, direction) for name in NAMES[:-1] for direction in directions),
        ("copy", "forward"),
    }
    check_figures(rows)
    shown = capsys.readouterr().out
    assert str(path) in shown and "gn_add_relu" in shown and "torch_gn_autocast" in shown


def check_figures(rows):
    times = {(row["op"], row["direction"], row["contender"]): float(row["microseconds"]) for row in rows}
    for row in rows:
        case, microseconds = (row["op"], row["direction"]), float(row["microseconds"])
        for peer in PEERS:
            is_compared = (*case, peer) in times and row["contender"] not in (peer, "copy")
            if is_compared:
                quotient = times[(*case, peer)] / microseconds
                assert float(row[f"speedup_over_{peer}"]) == pytest.approx(quotient, rel=1e-4)
            else:
                assert row[f"speedup_over_{peer}"] == ""
        rate = float(row["minimal_bytes"]) / microseconds / 1e3
        assert float(row["gb_per_second"]) == pytest.approx(rate, rel=1e-4)
        share = rate / float(row["copy_gb_per_second"])
        assert float(row["share_of_copy_rate"]) == pytest.approx(share, rel=1e-4)


def test_minimal_bytes(cases):
    size = 2 * (1 * 64 * 2 * 3 * 3)  # bf16
    count = {case.op: case.minimal_bytes for case in cases("--batch_size", "1")}
    for op, forward, backward in (("gn", 2, 3), ("gn_relu", 2, 3), ("gn_add_relu", 3, 5)):
        assert count[op]("forward") == forward * size  # x, (residual,) y
        assert count[op]("backward") == backward * size  # grad_y, x, grad_x (, y, grad_residual)
        assert count[op]("both") == (forward + backward) * size
    assert [count["gn_add_relu"](name) for name in ("moments", "apply", "sums", "grad_x")] == [
        1 * size,
        3 * size,
        4 * size,
        3 * size,
    ]
    weights = sum(prod(weight) for stage in filter_stages("r3d-18", 8) for weight in stage)
    assert count["ws"]("forward") == weights * (4 + 2)
    assert count["ws"]("backward") == weights * (2 + 4 + 4)


@pytest.mark.parametrize("add, relu", [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize("memory_format", [torch.channels_last_3d, torch.contiguous_format])
def test_contenders_compute_the_same(add, relu, memory_format, clock):
    torch.manual_seed(0)  # else, one time in 300, a value beside the kink alone exceeds the bound
    names = ("ours", "torch_gn", "torch_gn_autocast", "bn")
    made, num_sets = norm_contenders(names, SHAPE, torch.bfloat16, memory_format, add, relu, clock)
    assert num_sets > 1
    results = {}
    for contender in made:
        y = contender.forward(1)
        assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=memory_format)
        results[contender.name] = [y, *contender.backward(y, 1)]
        assert len(results[contender.name]) == 4 + add
    for name in ("torch_gn", "torch_gn_autocast"):
        for got, want in zip(results["ours"], results[name], strict=True):
            # On average: next to the kink of the ReLU, rounding decides about a gradient.
            assert (got - want).abs().mean() < 0.02 * want.abs().mean()


def test_fp32_has_no_autocast(clock):
    arguments = (NAMES, SHAPE, torch.float32, torch.channels_last_3d, True, True, clock)
    assert [contender.name for contender in norm_contenders(*arguments)[0]] == [
        "ours",
        "bn",
        "torch_gn",
        "copy",
    ]


def test_filter_contenders_compute_the_same(clock):
    torch.manual_seed(0)
    stages = filter_stages("r3d-18", 4)  # no filter of two weights, whose exact gradient is almost 0
    names = ("ours_grouped", "ours", "timm", "var_mean")
    made = filter_contenders(names, stages, torch.float32, torch.channels_last_3d, clock)
    results = {}
    for contender in made:
        graph = contender.forward(0)
        results[contender.name] = [*graph, *contender.backward(graph, 0)]
    for name in names[1:]:
        for got, want in zip(results["ours_grouped"], results[name], strict=True):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_a_contender_that_fails_is_a_row(cases, clock, monkeypatch):
    def fail(*arguments):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(contenders, "group_norm", fail)
    (case,) = cases("--op", "gn")
    rows = list(measure(case, NAMES, 1, clock))
    (failed,) = (row for row in rows if row["contender"] == "ours")
    assert failed["error"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate"
    assert failed["shape"] == "2x64x2x3x3" and "microseconds" not in failed
    assert {row["contender"] for row in rows if "microseconds" in row} == set(NAMES) - {"ours"}


def test_a_case_that_does_not_fit_is_a_row(cases, clock, monkeypatch):
    def fail(*arguments):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(contenders, "norm_contenders", fail)
    (case,) = cases("--op", "gn_relu")
    (row,) = measure(case, NAMES, 1, clock)
    assert (row["contender"], row["op"]) == ("all", "gn_relu")
    assert row["error"] == "OutOfMemoryError: CUDA out of memory."


def test_sites_are_those_of_the_networks():
    sites = norm_sites("i3d-50", 16, 224)
    assert sites.total() == 53
    assert sites[(64, 16, 112, 112), "gn_relu"] == 1
    assert sites[(2048, 8, 7, 7), "gn_add_relu"] == 3 and sites[(2048, 8, 7, 7), "gn"] == 1
    assert norm_sites("vgg3d-11", 9, 112)[(256, 5, 28, 28), "gn_relu"] == 2  # sizes round up
    assert sum(len(stage) for stage in filter_stages("r3d-50", 64)) == 53


def test_every_shape_is_measured_once():
    options = ["--net", "r3d-18", "r3d-50", "--num_frames", "8", "16", "--crop_size", "112", "224"]
    cases = select_cases(parser().parse_args([*options, "--dtype", "bfloat16", "--batch_size", "1"]))
    keys = [(case.about["shape"], case.op) for case in cases]
    assert len(set(keys)) == len(keys)
    (stem,) = (case for case in cases if case.shape == (1, 64, 8, 56, 56) and case.op == "gn_relu")
    assert stem.about["nets"] == "r3d-18:8x112:3 r3d-50:8x112:7"


def test_passes_are_read_from_the_profiler(cases, clock, monkeypatch):
    """With a profiler that says what one on a GPU would."""
    seen = {"moments": 4.0, "copy_kernel": 1.0, "apply_relu": 8.0, "sums_relu": 6.0, "grad_x_relu": 9.0}
    events = [
        SimpleNamespace(
            name=name,
            device_type=SimpleNamespace(name="CUDA"),
            time_range=SimpleNamespace(elapsed_us=lambda time=time: time),
        )
        for name, time in seen.items()
    ]
    profiler = nullcontext(SimpleNamespace(events=lambda: 2 * events))
    monkeypatch.setattr(torch.profiler, "profile", lambda activities: profiler)
    (case,) = cases("--op", "gn_relu")
    ours, num_sets = norm_contenders(
        ("ours",), case.shape, case.dtype, case.memory_format, False, True, clock
    )
    rows = {row["direction"]: row for row in kernels._passes(case, ours[0], num_sets, clock)}
    assert list(rows) == ["moments", "apply", "sums", "grad_x"]
    assert rows["grad_x"]["microseconds"] == pytest.approx(2 * 9.0 / num_sets)
    assert rows["apply"]["minimal_bytes"] == 2 * prod(case.shape) * 2
    events.clear()
    (row,) = kernels._passes(case, ours[0], num_sets, clock)
    assert row["error"] == "the profiler saw no kernel of ours"

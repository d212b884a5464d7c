"""What is promised, and whether rows hold it."""

import pytest

from videonorm.bench.goals import GOALS, NORMS_OF_I3D_50, goal_table, judge
from videonorm.bench.names import PEERS
from videonorm.bench.sites import norm_sites

NAMES = [goal.name for goal in GOALS]


def kernel(direction="both", *, bytes=10**8, **columns):
    row = {"op": "gn_relu", "contender": "ours", "shape": "8x64x8x56x56", "nets": ""}
    empty = dict.fromkeys([f"speedup_over_{peer}" for peer in PEERS] + ["share_of_copy_rate"], "")
    figures = {"direction": direction, "minimal_bytes": str(bytes), "microseconds": "10"}
    return row | empty | figures | columns


def step(contender, ratio, **columns):
    return {"contender": contender, "ratio_to_bn": ratio, "max_clips": ""} | columns


def most(contender, clips):
    return step(contender, "", max_clips=clips)


def kind(contender, kind, launches):
    return {"contender": contender, "kind": kind, "launches": launches}


def host(part, arm, direction, ratio):
    return {"part": part, "arm": arm, "direction": direction, "ratio_to_bn": ratio}


ROWS = {
    "step": [step("bn", "1"), step("gn_ws", "0.9"), step("gn_ws", "1.1"), step("gn", "2"), step("gn_ws", "")],
    "replay": [step("bn_replayed", "1"), step("gn_ws_replayed", "0.8")],
    "kernels": [
        kernel(speedup_over_bn="1.6", speedup_over_torch_gn_autocast="5"),
        kernel(speedup_over_bn="1.4", speedup_over_torch_gn_autocast="4.5"),
        kernel(bytes=10**6, speedup_over_bn="0.9"),  # small: no goal is of it
        kernel(shape="1x64x8x9x9", bytes=10**6, speedup_over_torch_gn="2.5"),
        kernel(op="gn_add_relu", speedup_over_bn="0.1"),
        kernel(contender="bn", speedup_over_bn="", speedup_over_torch_gn="0.1", shape="1x64x8x9x9"),
        kernel("moments", gb_per_second="1800", read_gb_per_second="2000", share_of_copy_rate="0.1"),
        kernel("apply", share_of_copy_rate="0.9"),
        kernel("grad_x", share_of_copy_rate="0.86"),
        kernel("apply", bytes=10**7, share_of_copy_rate="0.5"),
        kernel("", bytes="", contender="ours", error="no"),
    ],
    "all_kernels": [
        kernel(speedup_over_bn="1.7"),
        kernel(op="ws", contender="ours_grouped", nets="r3d-50", microseconds="400"),
        kernel(op="ws", contender="ours_grouped", nets="vgg3d-11", microseconds="900"),
        kernel(op="ws", contender="ours", nets="r3d-50", microseconds="5000"),
    ],
    "profile": [
        kind("gn", "our group norm", "212"),
        kind("bn", "batch norm", "50"),
        kind("gn", "all", "900"),
    ],
    "clips": [most("bn", "20"), most("gn_ws", "20"), most("gn_ws_recompute", "23"), most("gn_torch", "")],
    "host": [
        host("gn_relu", "gn", "all", "1.9"),
        host("gn_relu", "gn", "forward", "3"),
        host("step", "gn", "all", "9"),
    ],
}


def test_every_goal():
    verdicts = [(judgement.values, judgement.verdict) for judgement in judge(ROWS, on_gpu=True)]
    assert dict(zip(NAMES, verdicts, strict=True)) == {
        "step of i3d-50, GN + WS over BN": ([1.1, 0.9], "met in 1 of 2"),
        "the same as CUDA graphs": ([0.8], "met"),
        "GN + ReLU above 64 MB, times as fast as BN's": ([1.4, 1.6, 1.7], "met in 2 of 3"),
        "GN + ReLU above 64 MB, times as fast as torch's, autocast": ([4.5, 5.0], "met"),
        "GN + ReLU of 1 or 2 clips, times as fast as torch's": ([2.5], "missed"),
        "moments above 64 MB, share of the read rate": ([0.9], "met"),
        "apply, grad_x above 64 MB, share of the copy rate": ([0.86, 0.9], "met"),
        "apply, grad_x of 8 to 64 MB, share of the copy rate": ([0.5], "missed"),
        "WS of r3d-50, forward + backward, ms": ([0.4], "met"),
        "launches of a norm, forward + backward": ([4.0], "met"),
        "most clips, GN + WS over BN": ([1.0], "met"),
        "most clips, GN + WS recomputed over BN": ([1.15], "missed"),
        "most clips, GN + WS over torch's GN": ([], "unmeasured"),
        "host's time, GN + ReLU over BN's": ([1.9], "met"),
        "host's time, step of GN + WS over BN's": ([], "unmeasured"),
    }


def test_of_a_cpu_only_the_host_s_time_counts():
    measured = [judgement.goal.name for judgement in judge(ROWS, on_gpu=False) if judgement.values]
    assert measured == ["host's time, GN + ReLU over BN's"]


def test_as_a_record_and_in_the_table():
    first, *_, last = judge(ROWS, on_gpu=True)
    assert first.as_record() == {
        **{"goal": NAMES[0], "asked": "at most 1", "cases": 2, "verdict": "met in 1 of 2"},
        **{"median": pytest.approx(1.0), "worst": 1.1, "best": 0.9},
    }
    assert last.as_record()["median"] is None
    table = goal_table([first, last])
    assert table.rows[0] == [NAMES[0], "at most 1", "1.00 (0.90 to 1.10)", "2", "met in 1 of 2"]
    assert table.rows[1] == [NAMES[-1], "at most 1.25", "", "", "unmeasured"]


def test_i3d_50_has_so_many_norms():
    assert norm_sites("i3d-50", 8, 32).total() == NORMS_OF_I3D_50

"""`videonorm bench step` on the CPU, on networks that are as narrow as they can be."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from videonorm.bench import step, trainer
from videonorm.bench.command import main
from videonorm.bench.names import NORMS
from videonorm.bench.records import read_rows
from videonorm.bench.timing import GIB
from videonorm.bench.trainer import Case, TorchGroupNorm3d, measure, most_clips, saved_bytes
from videonorm.layers import GroupNorm3d

CPU = torch.device("cpu")
CASE = Case("r3d-18", crop_size=16, num_frames=2, batch_size=2, width=16, num_groups=4)


@pytest.mark.slow
def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(step, "QUICK_SIZES", ((2, 2), (3, 3)))
    path = tmp_path / "step.csv"
    options = ["--device", "cpu", "--quick", "--repeats", "1", "--out", str(path)]
    main(["step", *options, "--contender", "bn", "gn_ws_recompute"])
    rows = read_rows(path)
    assert list(rows[0]) == list(step.COLUMNS)
    assert [(row["num_frames"], row["batch_size"]) for row in rows] == [("2", "2")] * 2 + [("3", "3")] * 2
    for row in rows:
        bn = next(other for other in rows if other["num_frames"] == row["num_frames"])
        assert bn["contender"] == "bn" and not row["error"]
        milliseconds = float(row["milliseconds"])
        assert float(row["ratio_to_bn"]) == pytest.approx(milliseconds / float(bn["milliseconds"]), rel=1e-4)
        clips_per_second = 1e3 * int(row["batch_size"]) / milliseconds
        assert float(row["clips_per_second"]) == pytest.approx(clips_per_second, rel=1e-4)
        assert row["peak_memory_mib"] == row["max_clips"] == ""
    assert str(path) in capsys.readouterr().out


def test_a_contender_that_fails_is_a_row(monkeypatch):
    new_model = Case.new_model

    def fail(self, contender):
        if contender == "gn":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return new_model(self, contender)

    monkeypatch.setattr(Case, "new_model", fail)
    bn, gn = measure(CASE, ("bn", "gn"), 1, CPU)
    assert gn["error"] == "OutOfMemoryError: CUDA out of memory." and "milliseconds" not in gn
    assert bn["error"] is None and bn["ratio_to_bn"] == 1
    assert bn["clips_per_second"] == pytest.approx(1e3 * CASE.batch_size / bn["milliseconds"])


def test_saved_bytes():
    count = {name: saved_bytes(CASE, name, 2, CPU) for name in NORMS}
    assert count["gn"] == pytest.approx(count["bn"], rel=0.1)
    assert count["gn_ws_recompute_8bit"] < count["gn_ws_recompute_blocks"] < count["gn_ws_recompute"]
    assert count["gn_ws_recompute"] < count["gn"]


def test_torch_group_norm_is_ours():
    x, residual = torch.randn(2, 2, 8, 3, 4, 4).unbind()
    ours, torchs = GroupNorm3d(8, 4, activation="relu"), TorchGroupNorm3d(8, 4)
    torchs.activation = "relu"
    torch.testing.assert_close(ours(x, residual), torchs(x, residual))


def test_the_models_are_those_of_the_names():
    sizes = {
        name: sum(p.numel() for p in CASE.new_model(name).parameters())
        for name in ("bn", "gn_torch", "gn_ws")
    }
    assert len(set(sizes.values())) == 1
    recomputing = {name: CASE.new_model(name).recompute for name in NORMS if "recompute" in name}
    assert list(recomputing.values()) == ["norms", "blocks", "blocks_8bit"]


@pytest.mark.parametrize("fitting", [0, 1, 2, 37, 64])
def test_most_clips(fitting, monkeypatch):
    """On a GPU of 80 GiB that is not there, and holds so many clips."""

    class Trainer:
        def __init__(self, case, contender, device):
            assert (case.net, case.num_frames, contender) == ("r3d-18", 32, "bn")
            if case.batch_size > fitting:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

        def step(self):
            pass

    fractions = []
    properties = SimpleNamespace(total_memory=80 * GIB)
    monkeypatch.setattr(trainer, "Trainer", Trainer)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: fractions.append(share)
    )
    options = step.parser().parse_args(["--net", "r3d-18", "--quick", "--max_clips", "20"])
    *_, case = step.select_cases(options)
    (row,) = measure(case, ["bn"], 1, CPU)
    assert row["num_frames"] == 32 and row["batch_size"] is None
    assert (row["max_clips"], row["memory_limit_mib"], row["error"]) == (fitting, 20 * 1024, None)
    assert fractions == [0.25, 1.0]
    assert most_clips(replace(case, limit_gib=0), "bn", CPU)["memory_limit_mib"] == 80 * 1024


def test_sizes():
    def sizes(*options):
        cases = step.select_cases(step.parser().parse_args(["--net", "r3d-18", *options]))
        return [(case.num_frames, case.batch_size) for case in cases]

    assert sizes() == list(step.SIZES) and sizes("--quick") == list(step.QUICK_SIZES)
    assert sizes("--quick", "--size", "8x16", "2x1", "--max_clips") == [(8, 16), (2, 1), (32, 0)]
    assert sizes("--size", "--max_clips", "24") == [(32, 0)]


class Graphs:
    """What torch.cuda has for a capture, on a machine without a GPU; `log` tells what was asked of it."""

    def __init__(self, patch, fails=False):
        self.log = []
        patch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(wait_stream=lambda other: None))
        patch.setattr(torch.cuda, "current_stream", torch.cuda.Stream)
        patch.setattr(torch.cuda, "stream", lambda stream: self.block("side"))
        graph = SimpleNamespace(replay=lambda: self.log.append("replay"))
        patch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
        patch.setattr(torch.cuda, "graph", lambda graph: self.block("capture", fails))

    @contextmanager
    def block(self, name, fails=False):
        self.log.append(name)
        yield
        self.log.append(f"{name} ends")
        if fails:
            raise torch.AcceleratorError("operation not permitted when stream is capturing")


def test_a_step_is_captured_after_others_on_a_stream_of_their_own(monkeypatch):
    graphs = Graphs(monkeypatch)
    monkeypatch.setattr(trainer.Trainer, "step", lambda self: graphs.log.append("step"))
    step_of_graph = trainer.new_step(CASE, "gn_ws_replayed", CPU)
    step_of_graph()
    steps = ["step"] * trainer.STEPS
    assert graphs.log == ["side", *steps, "side ends", "capture", "step", "capture ends", "replay"]


def test_what_is_replayed_is_compared_with_bn_replayed(monkeypatch):
    monkeypatch.setattr(trainer.Trainer, "capture", lambda self: self.step)
    monkeypatch.setattr(trainer.Trainer, "step", lambda self: None)
    names = ("bn", "bn_replayed", "gn_replayed")
    bn, bn_replayed, gn_replayed = measure(CASE, names, 1, CPU)
    assert bn["ratio_to_bn"] == bn_replayed["ratio_to_bn"] == 1
    assert gn_replayed["ratio_to_bn"] == gn_replayed["milliseconds"] / bn_replayed["milliseconds"]
    assert "saved_bytes_per_clip" in bn and "saved_bytes_per_clip" not in gn_replayed


def test_a_capture_that_fails_is_a_row(monkeypatch):
    Graphs(monkeypatch, fails=True)
    monkeypatch.setattr(trainer.Trainer, "step", lambda self: None)
    bn, replayed = measure(CASE, ("bn", "bn_replayed"), 1, CPU)
    assert bn["error"] is None
    assert replayed["error"].startswith("RuntimeError: cannot be captured: operation not permitted")

"""A training whose network is captured is that of the network itself; graphs are recorded on the CPU here."""

import copy
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, callbacks
from recorded_graphs import RecordedGraph, stand_in
from torch import nn
from two_blocks import NETWORKS, TwoBlocks, fit

from videonorm.diagnostics import LossLandscape
from videonorm.errors import UserError
from videonorm.layers import BatchNorm3d
from videonorm.training import AdaptiveGradientClipping
from videonorm.training.graphed_network import WARM_UP, GraphedNetwork
from videonorm.training.step_execution import StepExecution


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    stand_in(monkeypatch)
    monkeypatch.setattr(StepExecution, "check", lambda *_: None)  # that there is a GPU


def both(tmp_path, parts, **options):
    """The training of a network as it is and captured."""
    found = []
    for cuda_graph in (False, True):
        more = {"callbacks": [make() for make in options["callbacks"]]} if "callbacks" in options else {}
        found.append(fit(tmp_path, lambda: TwoBlocks(**parts), cuda_graph=cuda_graph, **options | more))
    return found


class Thaw(Callback):
    """Trains a part from the second epoch on, whose batch norms have other buffers then."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            pl_module.frozen.clear()
            pl_module.backbone.requires_grad_(True).train()
            for norm in pl_module.backbone.modules():
                if isinstance(norm, BatchNorm3d):
                    norm.running_mean = torch.zeros_like(norm.running_mean)


BN = NETWORKS["bn"]
CASES = {
    **{name: (parts, {}) for name, parts in NETWORKS.items()},
    "accumulated": (BN, {"accumulate_grad_batches": 2, "steps": 6}),
    "clipped": (NETWORKS["gn"], {"gradient_clip_val": 0.1}),
    "frozen": (BN | {"dropout": 0.5}, {"freeze": ["stages.0"]}),
    "clipped_by_unit": (BN, {"callbacks": [AdaptiveGradientClipping]}),
    "recorded": (
        BN,
        {"callbacks": [partial(LossLandscape, every_n_steps=5, per_decade=1)]},
    ),  # by weights of its own
}
if hasattr(callbacks, "EMAWeightAveraging"):  # since Lightning 2.6
    average = partial(callbacks.EMAWeightAveraging, decay=0.5)
    CASES["averaged"] = BN, {"callbacks": [average], "validates": True, "val_check_interval": 2}
SLOW = {"gn", "recompute", "clipped", "clipped_by_unit"}


@pytest.mark.parametrize(
    "parts, options",
    [pytest.param(*case, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, case in CASES.items()],
)
def test_a_captured_training_is_that_of_the_network(tmp_path, parts, options):
    (want, eager, _), (got, graphed, _) = both(tmp_path, parts, **options)
    assert got == pytest.approx(want, abs=1e-6)
    for ours, theirs in zip(graphed.state_dict().values(), eager.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)
    record = {"compile": None, "cuda_graph": True, "replayed_batches": len(got) - WARM_UP}
    assert graphed.execution.record() == record


def test_what_a_callback_changes_is_captured_anew(tmp_path):
    options = {"freeze": ["stages.0"], "callbacks": [Thaw], "steps": 12}
    (want, eager, _), (got, graphed, _) = both(tmp_path, BN, **options)
    assert got == pytest.approx(want, abs=1e-6)
    torch.testing.assert_close(graphed.state_dict(), eager.state_dict())
    assert graphed.execution.record()["replayed_batches"] == 12 - 2 * WARM_UP


def freeze(network):
    network.stages[0].conv1.weight.requires_grad_(False)


def put_another_buffer_in(network):
    network.stages[0].norm1.running_var = torch.ones(4)


def change_a_mode(network):
    network.stages[0].norm1.eval()


@pytest.mark.parametrize("change", [freeze, put_another_buffer_in, change_a_mode])
def test_every_change_is_captured_anew(change):
    network = TwoBlocks(**BN)
    graphed, clips = GraphedNetwork(network), torch.randn(2, 3, 2, 6, 6)
    for expected in [0] * WARM_UP + [1, 2]:
        graphed(clips)
        assert graphed.replayed == expected
        graphed.settle()
    change(network)
    graphed.settle()
    for expected in [2] * WARM_UP + [3]:
        graphed(clips)
        assert graphed.replayed == expected


class Linear(nn.Module):
    """Has a parameter that goes into nothing."""

    def __init__(self):
        super().__init__()
        self.head, self.unused = nn.Linear(3, 2), nn.Parameter(torch.ones(2))

    def forward(self, clips):
        return self.head(clips.mean(dim=(2, 3, 4)))


@pytest.fixture
def captured():
    """A network, and the same captured."""
    network = Linear()
    graphed = GraphedNetwork(network)
    for _ in range(WARM_UP + 1):
        graphed(torch.randn(2, 3, 1, 2, 2))
    return network, graphed


def test_gradients_are_scaled_and_added_up(captured):
    network, graphed = captured
    clips = torch.randn(2, 2, 3, 1, 2, 2)
    for of_batch in clips:
        (graphed(of_batch).square().sum() * 2.0**16).backward()
    kept = [copy.deepcopy(network.head.weight.grad), network.unused.grad]
    network.zero_grad()
    torch.stack([network(of_batch).square().sum() * 2.0**16 for of_batch in clips]).sum().backward()
    torch.testing.assert_close(kept[0], network.head.weight.grad)
    assert kept[1] is None


def test_gradients_that_were_handed_out_stay(captured):
    network, graphed = captured
    weight, kept = network.head.weight, []
    for of_batch in torch.randn(2, 2, 3, 1, 2, 2):
        kept += torch.autograd.grad(graphed(of_batch).square().sum(), weight)
        torch.testing.assert_close(kept[-1], *torch.autograd.grad(network(of_batch).square().sum(), weight))
    assert not torch.equal(*kept)


def test_a_backward_is_of_the_last_forward(captured):
    _, graphed = captured
    first, _ = (graphed(torch.randn(2, 3, 1, 2, 2)) for _ in range(2))
    with pytest.raises(RuntimeError, match="must come before its next forward"):
        first.sum().backward()


def test_clips_of_another_shape_are_refused(captured):
    _, graphed = captured
    with pytest.raises(
        UserError, match=r"clips \(\(1, 3, 1, 2, 2\), .*\) must be \(2, 3, 1, 2, 2\), .*graph"
    ):
        graphed(torch.randn(1, 3, 1, 2, 2))
    with pytest.raises(UserError, match=r"torch.float64\) must be \(2, 3, 1, 2, 2\), torch.float32 with"):
        graphed(torch.randn(2, 3, 1, 2, 2).double())


def test_a_smaller_last_batch_is_refused_before_the_first_step(tmp_path):
    losses = {}
    with pytest.raises(
        UserError, match=r"model.cuda_graph \(true\) must be false with a last batch of 2 clips"
    ):
        losses["of_all"] = fit(tmp_path, TwoBlocks, cuda_graph=True, clips=22)
    fit(tmp_path, TwoBlocks, cuda_graph=True, clips=22, steps=5)  # which end before it
    fit(tmp_path, TwoBlocks, cuda_graph=True, clips=22, steps=6, limit_train_batches=5)


@pytest.mark.parametrize(
    "error, expected, message",
    [
        (
            RuntimeError("operation not permitted\nmore"),
            UserError,
            r"must be false for Linear.*: operation not",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError, "CUDA out of memory"),
    ],
    ids=["not_permitted", "out_of_memory"],
)
def test_a_capture_that_fails(monkeypatch, error, expected, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch.cuda, "graph", fail)
    graphed = GraphedNetwork(Linear())
    clips = torch.randn(2, 3, 1, 2, 2)
    for _ in range(WARM_UP):
        graphed(clips)
    with pytest.raises(expected, match=message):
        graphed(clips)


def test_a_copy_of_a_captured_model_is_not_captured(tmp_path):
    class Copy(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.copy = copy.deepcopy(pl_module)

    RecordedGraph.__deepcopy__ = None  # as the real ones cannot be copied
    try:
        callback = Copy()
        _, model, _ = fit(tmp_path, TwoBlocks, cuda_graph=True, callbacks=[callback], steps=WARM_UP + 2)
    finally:
        del RecordedGraph.__deepcopy__
    assert model.execution.record()["replayed_batches"] == 2
    clips = torch.randn(1, 3, 2, 6, 6)
    torch.testing.assert_close(callback.copy.execution(clips), callback.copy.backbone(clips))

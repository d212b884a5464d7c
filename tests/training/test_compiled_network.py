"""A training whose network is compiled is that of the network itself, in one graph."""

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from two_blocks import NETWORKS, TwoBlocks, fit

from videonorm.errors import UserError
from videonorm.models import ResNet3d
from videonorm.training.compiled_network import CompiledNetwork

STEPS = 20


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    counters.clear()
    with torch._dynamo.config.patch(recompile_limit=8):  # which a CompiledNetwork raises
        yield


@pytest.mark.parametrize("name", [pytest.param("bn", marks=pytest.mark.slow), "recompute"])
def test_losses_are_those_of_the_network(tmp_path, traced, name):
    want, eager, _ = fit(tmp_path, lambda: TwoBlocks(**NETWORKS[name]), steps=STEPS)
    got, compiled, trainer = fit(
        tmp_path, lambda: TwoBlocks(**NETWORKS[name]), steps=STEPS, compile="default"
    )
    assert got == pytest.approx(want, abs=1e-5) and len(got) == STEPS
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    assert traced == ["default"]
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict())
    record = {"compile": "default", "cuda_graph": False, "replayed_batches": None}
    assert compiled.execution.record() == record


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_losses_of_generated_code_are_those_of_the_network(tmp_path, name):
    """With `-s` it prints how far they are apart. Steps are small: large ones make any rounding grow."""

    def network():
        return ResNet3d(10, "r3d", 3, width=4, **NETWORKS[name])

    want, eager, _ = fit(tmp_path, network, steps=STEPS, lr=0.002)
    got, compiled, _ = fit(tmp_path, network, steps=STEPS, lr=0.002, compile="default")
    apart = max(abs(ours - theirs) for ours, theirs in zip(got, want, strict=True))
    breaks = sum(counters["graph_break"].values())
    print(
        f"{name}: {STEPS} losses, {want[0]:.3f} to {want[-1]:.3f}, {apart:.1e} apart; {breaks} graph breaks"
    )
    assert apart <= 1e-5 and not breaks and counters["stats"]["unique_graphs"] == 1
    assert list(compiled.state_dict()) == list(eager.state_dict())


def test_a_run_goes_on_compiled_or_not(tmp_path, traced):
    """What a compiled run has saved, key by key, is what the network's has."""
    parts, checkpoint = NETWORKS["bn"], tmp_path / "last.ckpt"
    want, eager, _ = fit(tmp_path, lambda: TwoBlocks(**parts), steps=10)
    first, _, trainer = fit(tmp_path, lambda: TwoBlocks(**parts), steps=5, compile="default")
    trainer.save_checkpoint(checkpoint)
    assert torch.load(checkpoint, weights_only=True)["state_dict"].keys() == eager.state_dict().keys()
    for compile in (None, "default"):
        rest, model, _ = fit(
            tmp_path, lambda: TwoBlocks(**parts), steps=10, compile=compile, ckpt_path=checkpoint
        )
        assert first + rest == pytest.approx(want, abs=1e-5)


def test_every_shape_has_a_graph_of_its_own(traced):
    """And more of them than torch's own limit of 8."""
    network = nn.ReLU()
    compiled = CompiledNetwork(network, "default")
    for frames in range(1, 11):
        clips = torch.randn(2, 3, frames, 2, 2)
        torch.testing.assert_close(compiled(clips), network(clips))
    assert counters["stats"]["unique_graphs"] == 10


class Reading(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, clips):
        y = self.head(clips.mean(dim=(2, 3, 4)))
        return y if y.sum() > 0 else -y


def test_a_network_that_breaks_its_graph_is_refused(tmp_path, traced):
    message = r"model.compile \(default\) must be null for Reading, of which torch makes no graph: Data-dep"
    with pytest.raises(UserError, match=message):
        fit(tmp_path, Reading, compile="default")


def test_evaluation_and_recorders_run_the_network_itself(tmp_path, traced):
    _, model, trainer = fit(tmp_path, TwoBlocks, steps=1, compile="default")
    found = counters["stats"]["unique_graphs"]
    clips = torch.randn(2, 3, 2, 6, 6)
    model.loss(clips, torch.tensor([0, 1]))
    model(clips)
    model.eval()(clips)
    assert counters["stats"]["unique_graphs"] == found == 1

"""A training whose network is compiled or captured, against that of the network itself."""

import pytest
import torch
from two_blocks import NETWORKS, TwoBlocks, fit

from videonorm.errors import UserError
from videonorm.training.graphed_network import WARM_UP, GraphedNetwork

STEPS = 20
ON_GPU = {"accelerator": "gpu", "devices": 1, "steps": STEPS}
WAYS = {
    "compile": {"compile": "default"},
    "reduce_overhead": {"compile": "reduce-overhead"},
    "cuda_graph": {"cuda_graph": True},
}


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=8):  # which a CompiledNetwork raises
        yield


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("parts", NETWORKS.values(), ids=NETWORKS)
def test_losses_are_those_of_the_network(full_precision, tmp_path, parts, way):
    want, eager, _ = fit(tmp_path, lambda: TwoBlocks(**parts), **ON_GPU)
    got, model, _ = fit(tmp_path, lambda: TwoBlocks(**parts), **ON_GPU, **way)
    assert got == pytest.approx(want, abs=1e-5)
    for ours, theirs in zip(model.state_dict().values(), eager.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    replayed = STEPS - WARM_UP if "cuda_graph" in way else None
    assert model.execution.record()["replayed_batches"] == replayed


@pytest.mark.parametrize("precision, apart", [("32-true", 1e-5), ("16-mixed", 1e-2), ("bf16-mixed", 3e-2)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_captured_steps_are_scaled_and_accumulated(full_precision, tmp_path, accumulate, precision, apart):
    options = ON_GPU | {"steps": 10, "precision": precision, "accumulate_grad_batches": accumulate}
    want, _, _ = fit(tmp_path, lambda: TwoBlocks(**NETWORKS["gn_ws"]), **options, gradient_clip_val=1.0)
    got, model, _ = fit(
        tmp_path, lambda: TwoBlocks(**NETWORKS["gn_ws"]), **options, gradient_clip_val=1.0, cuda_graph=True
    )
    assert got == pytest.approx(want, abs=apart)
    assert model.execution.record()["replayed_batches"] == 10 * accumulate - WARM_UP


def test_each_replay_draws_random_numbers_of_its_own():
    graphed = GraphedNetwork(TwoBlocks(dropout=0.5).cuda())
    clips = torch.randn(4, 3, 2, 6, 6, device="cuda")
    logits = [graphed(clips) for _ in range(WARM_UP + 2)]
    assert graphed.replayed == 2 and not torch.equal(*logits[-2:])


def test_a_network_that_waits_for_the_device_is_refused(tmp_path):
    class Waiting(TwoBlocks):
        def forward(self, clips):
            return super().forward(clips) * float(clips.amax() > 0)

    with pytest.raises(UserError, match=r"model.cuda_graph \(true\) must be false for Waiting, which cannot"):
        fit(tmp_path, Waiting, **ON_GPU, cuda_graph=True)

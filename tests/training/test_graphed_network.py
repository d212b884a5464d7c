"""A training whose network is captured is that of the network itself; graphs are recorded on the CPU here."""

import pytest
import torch
from recorded_graphs import stand_in
from two_blocks import NETWORKS, TwoBlocks, fit

from videonorm.training.graphed_network import WARM_UP
from videonorm.training.step_execution import StepExecution


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    stand_in(monkeypatch)
    monkeypatch.setattr(StepExecution, "check", lambda *_: None)  # that there is a GPU


def both(tmp_path, network, **options):
    """The training of a network as it is and captured."""
    return [fit(tmp_path, network, cuda_graph=cuda_graph, **options) for cuda_graph in (False, True)]


CASES = {
    **{name: (parts, {}) for name, parts in NETWORKS.items()},
    "accumulated": (NETWORKS["bn"], {"accumulate_grad_batches": 2}),
    "clipped": (NETWORKS["gn"], {"gradient_clip_val": 0.1}),
    "frozen": (NETWORKS["bn"] | {"dropout": 0.5}, {"freeze": ["stages.0"]}),
}


@pytest.mark.parametrize("parts, options", CASES.values(), ids=CASES)
def test_a_captured_training_is_that_of_the_network(tmp_path, parts, options):
    (want, eager, _), (got, graphed, _) = both(tmp_path, lambda: TwoBlocks(**parts), **options)
    assert got == pytest.approx(want, abs=1e-6)
    for ours, theirs in zip(graphed.state_dict().values(), eager.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert graphed.execution.record()["replayed_batches"] == len(got) - WARM_UP

"""Ways to run a network but the plain one: each says how far from it the scores are."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from videonorm.errors import UserError
from videonorm.evaluation.execution import Execution, Way

CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 5)
    )


def clips() -> torch.Tensor:
    return torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def check(ways: Sequence[Way], far: Sequence[bool]) -> None:
    plain = network()(clips()).detach()
    execution = Execution(network(), CPU, ways, "it")
    deviations = execution.deviations(clips())
    logits = execution(clips()).float()
    assert [of.ways for of in deviations] == [ways[: count + 1] for count in range(len(ways))]
    assert [of.logit > 1e-4 for of in deviations] == far
    assert deviations[-1].logit == pytest.approx((logits - plain).abs().max().item(), abs=1e-6)
    apart = (logits.softmax(1) - plain.softmax(1)).abs().max().item()
    assert deviations[-1].probability == pytest.approx(apart, abs=1e-6)
    assert all(of.clips == 2 and math.isfinite(of.logit) and of.logit < 0.05 for of in deviations)
    assert str(deviations[-1]).startswith(f"{' + '.join(ways)}: at most ")


def test_bf16_in_channels_last() -> None:
    check(["channels_last", "bf16"], [False, True])


@pytest.mark.slow
def test_compiled() -> None:
    check(["bf16", "compile"], [True, True])


def test_weights_and_clips_are_in_channels_last() -> None:
    layouts = []

    class Layout(nn.Conv3d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            layout = {"memory_format": torch.channels_last_3d}
            layouts.append((x.is_contiguous(**layout), self.weight.is_contiguous(**layout)))
            return super().forward(x).mean(dim=(2, 3, 4))

    network = Layout(3, 8, 3)
    execution = Execution(network, CPU, ["channels_last"], "it")
    with torch.inference_mode():
        execution.deviations(clips())
    execution(clips())
    assert not network.weight.is_inference()
    assert layouts == [(False, False), (True, True), (True, True)]


def test_a_program_cannot_be_compiled() -> None:
    with pytest.raises(UserError, match="compile must be left out for model.onnx: a network of layers can"):
        Execution(lambda clips: clips, CPU, ["compile"], "model.onnx")

"""What a plan says of a GPU's memory, against steps that take it."""

import pytest

from videonorm.frontier.measure import Device, device_here, run_steps
from videonorm.frontier.plan import GIB, Question, footprint
from videonorm.frontier.recipe import Recipe

NORMS = {
    "bn": {"norm": {"class_path": "videonorm.layers.BatchNorm3d"}},
    "gn_ws": {
        "norm": {"class_path": "videonorm.layers.GroupNorm3d", "init_args": {"num_groups": 32}},
        "conv": "videonorm.layers.WSConv3d",
    },
}


def question(norm: str) -> Question:
    sizes = {"depth": 18, "kind": "r3d", "num_classes": 400}
    recipe = Recipe(
        backbone={"class_path": "videonorm.models.ResNet3d", "init_args": {**sizes, **NORMS[norm]}},
        optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01, "momentum": 0.9}},
        precision="bf16-mixed",
        accumulate=1,
        num_frames=16,
        crop_size=112,
        batch_size=8,
        settings={"data": {"channels_last": "auto"}},
    )
    return Question(norm, recipe, 16, 112)


@pytest.mark.parametrize("norm", NORMS)
def test_the_planned_peak_is_the_measured_one(norm):
    name, gib = device_here()
    assert gib is not None
    asked = question(norm)
    answer = run_steps(asked, [16], 2, Device(name, gib, 2.0))
    assert answer["peak"] == pytest.approx(footprint(asked).peak(16), rel=0.1)
    assert answer["held"] >= answer["peak"]


def test_what_is_above_the_limit_does_not_fit():
    name, _ = device_here()
    asked = question("bn")
    gib = footprint(asked).peak(16) / GIB
    assert "peak" in run_steps(asked, [8], 1, Device(name, gib, 0.0))
    assert "out of memory" in run_steps(asked, [32], 1, Device(name, gib, 0.0))["too_large"]

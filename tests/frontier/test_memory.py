"""Bytes of a step: counted by hand, at other batch sizes, on fake CUDA, by torch's tracker."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from fake_cuda import saved_bytes_per_clip
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from videonorm.bench.trainer import TorchGroupNorm3d
from videonorm.frontier.memory import _trace, refuses_one_clip, trace_step
from videonorm.layers import BatchNorm3d, GroupNorm3d, WSConv3d
from videonorm.models import ResNet3d, VGG3d

NORMS = {
    "bn": {"norm": BatchNorm3d},
    "gn_ws": {"norm": partial(GroupNorm3d, num_groups=4), "conv": WSConv3d},
    "recompute": {"norm": partial(GroupNorm3d, num_groups=4), "conv": WSConv3d, "recompute": "blocks"},
    "8bit": {"norm": partial(GroupNorm3d, num_groups=4), "conv": WSConv3d, "recompute": "blocks_8bit"},
    "F.group_norm": {"norm": partial(TorchGroupNorm3d, num_groups=4)},
}
MODELS = {
    "r3d-10": partial(ResNet3d, 10, "r3d", width=8),
    "i3d-18": partial(ResNet3d, 18, "i3d", width=8),
    "vgg3d-11": partial(VGG3d, 11),
}
QUICK = ("bn", "recompute")  # the others of one model alone
CLIP = (4, 32, 32)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


class TwoLayers(nn.Module):
    """Flattened clips -> 5 -> 7, all of its bytes countable by hand."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(pixels, 5, bias=False), nn.Linear(5, 7, bias=False)

    def forward(self, clips: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(clips.flatten(1))))


def test_bytes_counted_by_hand():
    pixels = 3 * 2 * 4 * 4
    step = trace_step(lambda: TwoLayers(pixels), sgd, (2, 4, 4), "32-true")
    weights = 4 * (pixels * 5 + 5 * 7)
    assert step.fixed == 2 * weights  # and momentum
    # flatten's copy out of channels_last_3d, the ReLU's output, log-softmax's; the loss is a number.
    assert step.saved_per_clip == 4 * (pixels + 5 + 7)
    # The fullest moment holds at least the clips, what is saved, and the gradient of the logits.
    clip = 4 * pixels
    assert step.peak(10) >= step.fixed + 10 * (clip + step.saved_per_clip + 4 * 7)
    assert step.peak(10) <= 1.5 * weights + step.fixed + 10 * (2 * clip + step.saved_per_clip + 4 * 7)


@pytest.mark.parametrize("optimizer, states", [(torch.optim.SGD, 0), (torch.optim.AdamW, 2)])
def test_the_optimizers_state_is_fixed(optimizer, states):
    step = trace_step(lambda: TwoLayers(96), partial(optimizer, lr=0.1), (2, 4, 4), "32-true")
    weights = 4 * (96 * 5 + 5 * 7)
    assert step.fixed == pytest.approx((1 + states) * weights, abs=64)  # AdamW counts its steps


def test_accumulated_gradients_are_in_memory():
    make = partial(MODELS["r3d-10"], **NORMS["gn_ws"])
    alone, accumulated = (trace_step(make, sgd, CLIP, "32-true", accumulate=n) for n in (1, 2))
    with FakeTensorMode():
        gradients = sum(parameter.nbytes for parameter in make().parameters())
    assert accumulated.fixed == alone.fixed
    assert accumulated.peak(4) == pytest.approx(alone.peak(4) + gradients, rel=0.1)


@pytest.mark.parametrize(
    "norm", [pytest.param(norm, marks=[pytest.mark.slow] * (norm == "8bit")) for norm in NORMS]
)
def test_two_batch_sizes_tell_all(norm):
    make = partial(MODELS["r3d-10"], **NORMS[norm])
    step = trace_step(make, sgd, CLIP, "bf16-mixed")
    for batch_size in (7, 40):
        alive = _trace(make, sgd, (batch_size, 3, *CLIP), "bf16-mixed", 1).alive
        assert step.peak(batch_size) == max(alive)
        assert step.largest_batch_size(max(alive)) == batch_size
        assert step.largest_batch_size(max(alive) - 1) == batch_size - 1
    assert step.largest_batch_size(step.fixed) == 0


@pytest.mark.parametrize(
    "model, norm",
    [
        pytest.param(model, norm, marks=[pytest.mark.slow] * (norm not in QUICK and index > 0))
        for index, model in enumerate(MODELS)
        for norm in NORMS
    ],
)
def test_saved_bytes_are_those_of_cuda(model, norm):
    make = partial(MODELS[model], **NORMS[norm])
    log_softmax = 4 * 400  # classes, in fp32
    step = trace_step(make, sgd, CLIP, "bf16-mixed")
    counted = saved_bytes_per_clip(make, *CLIP[:2]) + log_softmax
    assert step.saved_per_clip == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("norm", ["bn", "recompute"])
def test_the_peak_is_that_of_torchs_tracker(norm):
    """Which is a private module of torch: it is not what the plan rests on."""
    from torch.distributed._tools.mem_tracker import MemTracker

    make = partial(MODELS["r3d-10"], **NORMS[norm])
    with FakeTensorMode():
        model = make()
        optimizer = sgd(model.parameters())
        clips = torch.empty(4, 3, *CLIP).contiguous(memory_format=torch.channels_last_3d)
        labels = torch.zeros(4, dtype=torch.int64)
        tracker = MemTracker()
        tracker.track_external(model, optimizer, clips, labels)
        with tracker:
            for _ in range(2):
                F.cross_entropy(model(clips), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
                tracker.reset_mod_stats()
        peak = sum(of["Total"] for of in tracker.get_tracker_snapshot("peak").values())
    assert trace_step(make, sgd, CLIP, "32-true").peak(4) == pytest.approx(peak, rel=0.02)


def test_what_is_made_again_is_not_in_memory_all_at_once():
    """At the peak: what is saved, the gradients of a layer, and few of the outputs of a chain."""
    make = partial(ResNet3d, 34, "r3d", width=8, recompute="blocks", norm=NORMS["gn_ws"]["norm"])
    step = trace_step(make, sgd, CLIP, "bf16-mixed")
    output = 2 * 8 * 4 * 16 * 16  # bytes of a clip in stage 1
    assert step.peak(1000) - step.fixed < 1000 * (step.saved_per_clip + 5 * output)


def test_batch_statistics_need_two_clips():
    assert refuses_one_clip(partial(MODELS["r3d-10"], **NORMS["bn"]), CLIP, "32-true")
    assert not refuses_one_clip(partial(MODELS["r3d-10"], **NORMS["gn_ws"]), CLIP, "32-true")

import pytest
import torch

from videonorm.errors import UserError
from videonorm.training.schedule import WarmupCosine, WarmupSteps


@pytest.mark.parametrize(
    "progress, factor",
    [(0.0, 0.1), (0.1, 0.55), (0.2, 1.0), (0.6, 0.5), (1.0, 0.0)],
    ids=lambda value: str(value),
)
def test_cosine_rises_then_falls(progress, factor):
    assert WarmupCosine(warmup=0.2, start=0.1).factor(progress) == pytest.approx(factor)


@pytest.mark.parametrize(
    "progress, factor", [(0.0, 0.5), (0.1, 1.0), (0.49, 1.0), (0.5, 0.1), (0.75, 0.01), (1, 0.01)]
)
def test_steps_fall_at_milestones(progress, factor):
    assert WarmupSteps([0.5, 0.75], warmup=0.1, start=0.5).factor(progress) == pytest.approx(factor)


def test_without_warmup_starts_at_one():
    assert WarmupCosine(warmup=0.0).factor(0.0) == 1.0
    assert WarmupSteps(warmup=0.0).factor(0.0) == 1.0


def test_without_warmup_equals_torch():
    """Half a cosine, step for step, as torch's CosineAnnealingLR."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        assert WarmupCosine(warmup=0).factor(step / 20) == pytest.approx(oracle.get_last_lr()[0])
        optimizer.step()
        oracle.step()


def test_it_says_what_it_is():
    assert repr(WarmupCosine()) == "WarmupCosine(warmup=0.1, start=0.1, final=0.0)"
    assert repr(WarmupSteps([0.5])) == "WarmupSteps(milestones=(0.5,), decay=0.1, warmup=0.0, start=0.1)"


@pytest.mark.parametrize("warmup, total", [(0.1, 8), (0.1, 640), (0.07, 100), (0.5, 7), (1.0, 5), (0.0, 9)])
def test_warmup_in_steps(warmup, total):
    """Those whose successor would have a higher factor, were there no fall behind it."""
    schedule = WarmupSteps([], warmup=warmup)
    rising = sum(schedule.factor(step / total) < 1 for step in range(total))
    assert schedule.warmup_steps(total) == rising


@pytest.mark.parametrize(
    "schedule", [lambda: WarmupCosine(warmup=5), lambda: WarmupSteps(milestones=[0.1, 5])]
)
def test_fractions_are_checked(schedule):
    with pytest.raises(UserError, match=r"\(5\) must be a fraction of training, from 0 to 1"):
        schedule()

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn

from videonorm.layers import BatchRenorm3d

SITES = (0, 2, 3, 4)


def make_batches(count: int, clips: int = 4) -> list[torch.Tensor]:
    """Of 3 channels, each batch with other means and spreads."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, clips, 3, 2, 4, 4, dtype=torch.float64, generator=generator)
    return [(1 + 0.3 * index) * batch + index for index, batch in enumerate(noise)]


def make_layer(**options) -> BatchRenorm3d:
    layer = BatchRenorm3d(3, **options).double()
    nn.init.normal_(layer.weight, 1.0, generator=torch.Generator().manual_seed(1))
    nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(2))
    return layer


def per_channel(value):
    return value.view(-1, 1, 1, 1)


def test_outputs_gradients_and_statistics_are_those_of_the_papers_algorithm():
    """With limits that open over the second to fourth batch."""
    layer = make_layer(r_max=1.5, d_max=0.8, r_max_steps=(1, 3), d_max_steps=(0, 4), momentum=0.25)
    running_mean, running_var = torch.zeros(3).double(), torch.ones(3).double()
    limits = [(1, 0), (1, 0.2), (1.25, 0.4), (1.5, 0.6), (1.5, 0.8), (1.5, 0.8)]
    for x, (r_max, d_max) in zip(make_batches(6), limits, strict=True):
        leaf, own = x.clone().requires_grad_(), x.clone().requires_grad_()
        mean, std = own.mean(SITES), (own.var(SITES, correction=0) + 1e-5).sqrt()
        sigma = (running_var + 1e-5).sqrt()
        r = (std / sigma).detach().clamp(1 / r_max, r_max)
        d = ((mean - running_mean) / sigma).detach().clamp(-d_max, d_max)
        x_hat = (own - per_channel(mean)) / per_channel(std) * per_channel(r) + per_channel(d)
        want = per_channel(layer.weight) * x_hat + per_channel(layer.bias)
        got = layer(leaf)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
        parameters = list(layer.parameters())
        grads = [
            torch.autograd.grad(y.pow(3).sum(), [of, *parameters]) for y, of in ((got, leaf), (want, own))
        ]
        torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)
        running_mean = running_mean + 0.25 * (mean.detach() - running_mean)
        running_var = running_var + 0.25 * (x.var(SITES, correction=0) - running_var)
        torch.testing.assert_close((layer.running_mean, layer.running_var), (running_mean, running_var))


def test_it_begins_as_batch_norm_and_unclipped_it_is_what_evaluation_is():
    (x,) = make_batches(1)
    layer = make_layer()
    want = F.batch_norm(x, None, None, layer.weight, layer.bias, training=True)
    torch.testing.assert_close(layer(x), want)

    layer = make_layer(r_max=1e9, d_max=1e9, r_max_steps=(0, 0), d_max_steps=(0, 0))
    nn.init.constant_(layer.running_mean, 2.0)
    evaluated = copy.deepcopy(layer).eval()(x)
    torch.testing.assert_close(layer(x), evaluated)


@pytest.mark.parametrize(
    "batch, limits",
    [(0, (1, 0)), (5_000, (1, 0)), (15_000, (11 / 7, 2.5)), (40_000, (3, 5)), (10**6, (3, 5))],
)
def test_the_limits_of_the_paper(batch, limits):
    layer = BatchRenorm3d(3)
    layer.num_batches_tracked.fill_(batch)
    assert [limit.item() for limit in layer.limits()] == pytest.approx(limits)


def test_a_training_goes_on_exactly():
    options = {"r_max": 2.0, "r_max_steps": (0, 6), "d_max_steps": (1, 5), "momentum": 0.1}
    batches, layer, other = make_batches(6), make_layer(**options), BatchRenorm3d(3, **options).double()
    for x in batches[:3]:
        layer(x)
    other.load_state_dict(layer.state_dict())
    for x in batches[3:]:
        assert torch.equal(layer(x), other(x))


def test_one_clip_is_refused_unless_it_is_asked_for():
    (x,) = make_batches(1, clips=1)
    with pytest.raises(
        ValueError, match=r"batch_size \(1\) must be at least 2 for BatchRenorm3d in training"
    ):
        make_layer()(x)
    layer = make_layer(min_clips=1)
    torch.testing.assert_close(layer(x), F.instance_norm(x, weight=layer.weight, bias=layer.bias))


def test_of_no_clips_it_takes_no_statistics():
    layer = make_layer()
    layer(*make_batches(1))
    before = layer.running_mean.clone(), layer.running_var.clone()
    assert layer(make_batches(1)[0][:0]).shape == (0, 3, 2, 4, 4)
    assert torch.equal(layer.running_mean, before[0]) and torch.equal(layer.running_var, before[1])


def test_tools_find_it():
    batches, layer = make_batches(3), make_layer()
    update_bn(batches, layer)
    torch.testing.assert_close(layer.running_mean, torch.stack(batches).mean((0, 1, 3, 4, 5)))
    assert layer.momentum == 0.01
    torch.func.replace_all_batch_norm_modules_(layer)
    want = F.batch_norm(batches[0], None, None, layer.weight, layer.bias, training=True)
    torch.testing.assert_close(layer(batches[0]), want)


def test_errors():
    with pytest.raises(ValueError, match=r"r_max \(0.5\) must be at least 1"):
        BatchRenorm3d(3, r_max=0.5)
    with pytest.raises(ValueError, match=r"d_max \(-1\) must be at least 0"):
        BatchRenorm3d(3, d_max=-1)
    with pytest.raises(ValueError, match=r"d_max_steps \(5, 2\) must be two batches in order, from 0 on"):
        BatchRenorm3d(3, d_max_steps=(5, 2))

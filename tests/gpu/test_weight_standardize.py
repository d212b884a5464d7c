"""The weight standardization kernels against float64."""

import pytest
import torch
from torch import Tensor

from videonorm.ops import use
from videonorm.ops.weight_standardize import Formula, weight_standardize, weight_standardize_layers

OPTIONS = {  # every formula, with an eps that is felt
    "default": {},
    "unbiased": {"eps": 1e-1, "unbiased": True},
    "on_std": {"eps": 1e-1, "unbiased": True, "eps_placement": "on_std"},
    "floor_below": {"eps": 1e-4, "eps_placement": "floor"},
    "floor_above": {"eps": 10.0, "eps_placement": "floor"},
    "multiplier": {"eps": 1e-1, "multiplier": 0.3},
    "center_only": {"scale": False},
    "scale_only": {"eps": 1e-1, "center": False},
}
SHAPES = {
    "small_odd": (5, 3, 3, 1, 1),
    "small_pointwise": (32, 64, 1, 1, 1),
    "small_stem": (16, 3, 3, 7, 7),
    "r3d_last": (512, 512, 3, 3, 3),
}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}


def make_inputs(shape, memory_format) -> tuple[Tensor, Tensor, Tensor]:
    """weight, gain and grad_w_hat."""
    generator = torch.Generator().manual_seed(0)
    weight, grad = torch.randn(2, *shape, generator=generator).cuda().unbind()
    gain = (1 + torch.rand(shape[0], generator=generator)).cuda()
    return (weight + 0.5).contiguous(memory_format=memory_format), gain, grad


@pytest.mark.parametrize("with_gain", [False, True], ids=["no_gain", "gain"])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_error_is_at_most_twice_eager(shape, options, memory_format, with_gain, assert_at_most_twice):
    weight, gain, grad = make_inputs(shape, memory_format)

    def run(dtype: torch.dtype, implementation: str) -> list[Tensor]:
        leaves = [t.to(dtype).requires_grad_() for t in (weight, gain)[: 1 + with_gain]]
        with use(implementation):
            w_hat = weight_standardize(leaves[0], *(leaves[1:] or [None]), Formula(**options))
            return [w_hat, *torch.autograd.grad(w_hat, leaves, grad.to(dtype))]

    got = run(torch.float32, "cuda")
    assert got[0].stride() == got[1].stride() == weight.stride()
    exact = run(torch.float64, "reference")
    for values in zip(got, run(torch.float32, "reference"), exact, strict=True):
        assert_at_most_twice(*values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_small_layers_together_are_the_same_to_the_bit(dtype):
    """Of 75 layers, which are more than one launch takes."""
    weights = []
    for index in range(75):
        shape = list(SHAPES.values())[index % 3]
        weights.append(make_inputs(shape, list(FORMATS.values())[index % 2])[0].requires_grad_())
    grads = [torch.randn_like(weight, dtype=dtype) for weight in weights]
    formulas = [Formula()] * len(weights)
    together = weight_standardize_layers(weights, [], formulas, dtype)
    alone = [weight_standardize(weight, dtype=dtype) for weight in weights]
    assert all(map(torch.equal, together, alone))
    assert all(w_hat.dtype == dtype for w_hat in together)
    got, want = (torch.autograd.grad(w_hats, weights, grads) for w_hats in (together, alone))
    assert all(map(torch.equal, got, want))
    again = weight_standardize_layers(weights, [], formulas, dtype)
    assert all(map(torch.equal, together, again))

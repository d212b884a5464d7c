"""weight_standardize.cu on the CPU, against the definition in float64."""

import itertools

import pytest
import torch

from videonorm.kernels import weight_standardize as kernels
from videonorm.ops.weight_standardize import _backward_reference, weight_standardize_reference

from .shim import Shim

OPTIONS = {  # center, scale, unbiased, eps, eps_placement, multiplier; eps is felt
    "big_transfer": (True, True, False, 1e-10, "under_root", 1.0),
    "biased": (True, True, False, 0.1, "under_root", 1.0),
    "unbiased": (True, True, True, 0.1, "under_root", 0.3),
    "on_std": (True, True, True, 0.1, "on_std", 1.0),
    "floor_below": (True, True, False, 1e-4, "floor", 0.3),
    "floor_above": (True, True, False, 10.0, "floor", 1.0),
    "center_only": (True, False, False, 1e-10, "under_root", 0.3),
    "scale_only": (False, True, False, 0.1, "under_root", 0.3),
    "scale_only_on_std": (False, True, True, 0.1, "on_std", 1.0),
    "neither": (False, False, False, 0.1, "floor", 0.3),
}
SHAPES = [
    (3, 2),  # the smallest filters
    (2, 3),
    (1, 3, 3, 3, 1),  # one filter
    (2, 27),
    (3, 3, 1, 7, 7),  # the stem's fan-in, odd
    (2, 64, 3, 3, 1),  # a block of threads with one access each, and a rest
    (2, 577),
    (1, 8, 1, 1, 1),  # fewer accesses than threads
    (2, 512, 1, 3, 3),
]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
PAIRS = list(itertools.product(DTYPES, repeat=2))
PAIR_IDS = ["-".join(str(dtype).removeprefix("torch.") for dtype in pair) for pair in PAIRS]
LAST = torch.channels_last_3d
KERNELS = ("weight_standardize", "weight_standardize_backward")


@pytest.fixture(scope="module", autouse=True)
def built():
    Shim().build(kernels.units())


class Witness:
    """A machine that tells what it was asked to launch."""

    multiprocessors = 4

    def __init__(self, machine):
        self.machine, self.launches = machine, []

    def launch(self, unit, kernel, grid, block, shared_bytes, params):
        self.launches.append((kernel, grid, [bool(row.vectorized) for row in params.layer[: params.layers]]))
        self.machine.launch(unit, kernel, grid, block, shared_bytes, params)


def make_layers(shapes=SHAPES, weight_dtype=torch.float32, output_dtype=torch.float32, mean=3.0):
    """weights with a mean, gains and grad_w_hats, all of them exact in their dtype."""
    generator = torch.Generator().manual_seed(0)

    def normal(shape, dtype):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    weights = [(normal(shape, torch.float64) + mean).to(weight_dtype) for shape in shapes]
    gains = [1 + torch.rand(shape[0], generator=generator) for shape in shapes]
    return weights, gains, [normal(shape, output_dtype) for shape in shapes]


def run(machine, weights, gains, grads, options):
    """w_hats, grad_weights, mean, var, grad_gain of the kernels."""
    arguments = layerwise(options, len(weights))
    w_hats, mean, var = kernels.forward(machine, weights, gains, *arguments, grads[0].dtype)
    grad_weights, grad_gain = kernels.backward(machine, grads, weights, gains, mean, var, *arguments)
    return w_hats, grad_weights, mean, var, grad_gain


def layerwise(options, layers):
    """eps and multiplier for each layer: no two are the same."""
    *same, eps, placement, multiplier = options
    steps = [1 + index / 10 for index in range(layers)]
    return *same, [eps * step for step in steps], placement, [multiplier / step for step in steps]


def assert_exact(results, weights, gains, grads, options):
    """The results of `run` are the definition's in float64, within four roundings of a filter's largest
    number; grad_gain, a sum of many terms, within eight of their norm.
    """
    inputs = [[t.double().requires_grad_() for t in tensors] for tensors in (weights, gains)]
    w_hats, mean, var = weight_standardize_reference(
        *inputs, *layerwise(options, len(weights)), torch.float64
    )
    derivatives = torch.autograd.grad(w_hats, sum(inputs, []), [grad.double() for grad in grads])
    filters = list(map(len, weights))
    got_mean, got_var, got_grad_gain = (
        values.split(filters) if len(values) else () for values in results[2:]
    )
    means, variances = mean.detach().split(filters), var.detach().split(filters)
    for index, weight in enumerate(weights):
        w, grad, w_hat, grad_w = (
            t.detach().double().flatten(1) for t in (weight, grads[index], w_hats[index], derivatives[index])
        )
        deviation = w - w.mean(1, keepdim=True) if options[0] else w
        factor = w_hat.abs().amax(1) / deviation.abs().amax(1)
        close(results[0][index], w_hat, w_hat.abs().amax(1))
        close(results[1][index], grad_w, torch.maximum(grad_w.abs().amax(1), factor * grad.abs().amax(1)))
        close(got_mean[index], means[index], w.abs().amax(1))
        close(got_var[index], variances[index], variances[index])
        if gains:
            terms = grad * w_hat / gains[index].double().unsqueeze(1)
            close(got_grad_gain[index], derivatives[len(weights) + index], 2 * terms.norm(dim=1))


def close(got, want, scale):
    """For each filter, within four roundings of `scale` (C_out,)."""
    error = (got.double().reshape(len(want), -1) - want.reshape(len(want), -1)).abs().amax(1)
    assert (error <= 4 * torch.finfo(got.dtype).eps * scale).all(), (error / scale).max()


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
def test_every_variant_is_the_definition(shim, pair, name):
    weights, gains, grads = make_layers(SHAPES, *pair)
    for given in (gains, []):
        results = run(shim, weights, given, grads, OPTIONS[name])
        assert_exact(results, weights, given, grads, OPTIONS[name])


@pytest.mark.parametrize("mean", [0.0, 30.0, 1000.0])
@pytest.mark.parametrize("name", ["big_transfer", "on_std", "scale_only"])
def test_weights_far_from_zero(shim, mean, name):
    """A mean of 1000 standard deviations is known to 6e-5 of one in fp32; the rest is made good."""
    weights, gains, grads = make_layers([(2, 4608), (3, 64, 3, 3, 3), (2, 147)], mean=mean)
    assert_exact(run(shim, weights, gains, grads, OPTIONS[name]), weights, gains, grads, OPTIONS[name])


@pytest.mark.parametrize("pair", [PAIRS[2], PAIRS[8]], ids=[PAIR_IDS[2], PAIR_IDS[8]])
def test_more_layers_than_one_launch_takes(shim, pair):
    """Every layer comes out as alone, to the bit, wherever it stands in a table."""
    shapes = [(1 + index % 4, 2 + 5 * (index % 13)) for index in range(2 * kernels.MAX_LAYERS + 1)]
    layers = make_layers(shapes, *pair)
    witness = Witness(shim)
    w_hats, grad_weights, *per_filter = run(witness, *layers, OPTIONS["biased"])
    assert [(kernel, len(rows)) for kernel, _, rows in witness.launches] == [
        (kernel, rows) for kernel in KERNELS for rows in (kernels.MAX_LAYERS, kernels.MAX_LAYERS, 1)
    ]
    *same, eps, placement, multipliers = layerwise(OPTIONS["biased"], len(shapes))
    split = [values.split([shape[0] for shape in shapes]) for values in per_filter]
    for index, (weight, gain, grad) in enumerate(zip(*layers, strict=True)):
        arguments = (*same, eps[index : index + 1], placement, multipliers[index : index + 1])
        (w_hat,), mean, var = kernels.forward(shim, [weight], [gain], *arguments, grad.dtype)
        (grad_weight,), grad_gain = kernels.backward(shim, [grad], [weight], [gain], mean, var, *arguments)
        assert torch.equal(w_hat, w_hats[index]) and torch.equal(grad_weight, grad_weights[index])
        for alone, grouped in zip((mean, var, grad_gain), split, strict=True):
            assert torch.equal(alone, grouped[index])


def test_the_same_bits_in_every_order_of_threads():
    layers = make_layers()
    first, *others = ([*flat(run(Shim(seed), *layers, OPTIONS["on_std"]))] for seed in range(3))
    for other in others:
        assert all(map(torch.equal, first, other))


def flat(results):
    for result in results:
        yield from result if isinstance(result, list) else [result]


@pytest.mark.parametrize("weight_format", [torch.contiguous_format, LAST], ids=["contiguous", "last"])
@pytest.mark.parametrize("grad_format", [torch.contiguous_format, LAST], ids=["contiguous", "last"])
def test_memory_formats(shim, weight_format, grad_format):
    weights, gains, grads = make_layers([(3, 8, 3, 2, 2), (4, 6, 1, 1, 1), (5, 1, 3, 3, 3)])
    weights = [weight.contiguous(memory_format=weight_format) for weight in weights]
    grads = [grad.contiguous(memory_format=grad_format) for grad in grads]
    results = run(shim, weights, gains, grads, OPTIONS["biased"])
    assert_exact(results, weights, gains, grads, OPTIONS["biased"])
    for result in results[:2]:
        assert [t.stride() for t in result] == [weight.stride() for weight in weights]


def test_weights_and_gradients_with_gaps(shim):
    weights, gains, _ = make_layers([(6, 8, 3, 2, 2), (4, 6)])
    weights, gains = [weights[0][::2, :, :, 1:], weights[1].T], [gains[0][::2], gains[0].bfloat16()]
    grads = [torch.ones(()).expand(weight.shape) for weight in weights]
    results = run(shim, weights, gains, grads, OPTIONS["biased"])
    assert_exact(results, weights, gains, grads, OPTIONS["biased"])
    for result in results[:2]:
        assert [t.stride() for t in result] == [torch.empty_like(weight).stride() for weight in weights]


@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
def test_vectors_where_every_access_is_aligned(shim, pair):
    vector = 16 // max(dtype.itemsize for dtype in pair)
    weights, gains, grads = make_layers([(3, 8 * vector)] * 3 + [(3, 8 * vector + 1)], *pair)
    weights[1], grads[2] = shifted(weights[1]), shifted(grads[2])
    layers = weights, [shifted(gain) for gain in gains], grads
    witness = Witness(shim)
    assert_exact(run(witness, *layers, OPTIONS["biased"]), *layers, OPTIONS["biased"])
    aligned = [[True, False, True, False], [True, False, False, False]]
    assert witness.launches == [(kernel, 12, which) for kernel, which in zip(KERNELS, aligned, strict=True)]


def shifted(tensor):
    """The same numbers, one scalar behind where memory is aligned."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view_as(tensor)


ASAN = """
import torch
from shim import Shim
from videonorm.kernels import weight_standardize as kernels

shim = Shim(asan=True, edit=lambda text: text.replace(*{edit}))
shapes = [(3, 2), (2, 27), (2, 577), (2, 64, 3, 3, 1), (1, 8, 1, 1, 1), (3, 512)]
for dtype in (torch.float32, torch.bfloat16):
    options = True, True, False, [1e-5] * len(shapes), "under_root", [1.0] * len(shapes)
    weights = [torch.randn(shape).to(dtype) for shape in shapes]
    gains = [torch.ones(len(weight)) for weight in weights]
    w_hats, mean, var = kernels.forward(shim, weights, gains, *options, torch.bfloat16)
    kernels.backward(shim, w_hats, weights, gains, mean, var, *options)
print("clean")
"""


def test_no_access_is_out_of_bounds(run_with_asan):
    process = run_with_asan(ASAN.format(edit=("", "", 0)))
    assert process.stdout == "clean\n", process.stderr


@pytest.mark.slow  # a compilation with ASan
def test_an_access_too_many_is_seen(run_with_asan):
    guard = "if (first + k * STEP < n) values[k] = load(first + k * STEP);"
    unguarded = guard.removeprefix("if (first + k * STEP < n) ")
    process = run_with_asan(ASAN.format(edit=(guard, unguarded)))
    assert process.returncode and "heap-buffer-overflow" in process.stderr


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "big_transfer"])
def test_a_filter_of_variance_zero(shim, name):
    weights, gains, grads = make_layers([(2, 27), (2, 64)])
    for weight in weights:
        weight[0] = 0.1  # of which the mean is not exact
    *results, _ = run(shim, weights, gains, grads, OPTIONS[name])
    want_w_hats, mean, var = weight_standardize_reference(
        weights, gains, *layerwise(OPTIONS[name], 2), torch.float32
    )
    want, _ = _backward_reference(grads, weights, gains, mean, var, *layerwise(OPTIONS[name], 2))
    for got, expected in zip(flat(results), [*want_w_hats, *want, mean, var], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_the_variance_is_never_negative(shim):
    """Here the two terms of which it is the difference are equal but for their rounding."""
    weights = [torch.full((1, 50001), 0.6750725507736206)]
    (w_hat,), _, var = kernels.forward(
        shim, weights, [], *layerwise(OPTIONS["scale_only_on_std"], 1), torch.float32
    )
    assert var.item() == 0 and w_hat.isfinite().all()


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_pass_as_in_torch(shim, bad, name):
    """In a weight, and in a gradient; the other filters know nothing of it."""
    weights, gains, grads = make_layers([(4, 27), (4, 64)])
    for weight, grad in zip(weights, grads, strict=True):
        weight[1, 3] = bad
        grad[2, 5] = bad
    arguments = layerwise(OPTIONS[name], 2)
    w_hats, mean, var = weight_standardize_reference(weights, gains, *arguments, torch.float32)
    want = [w_hats, *_backward_reference(grads, weights, gains, mean, var, *arguments)]
    got_w_hats, got_grads, _, _, got_grad_gain = run(shim, weights, gains, grads, OPTIONS[name])
    for got, expected in zip(flat([got_w_hats, got_grads, got_grad_gain]), flat(want), strict=True):
        assert torch.equal(got.isfinite(), expected.isfinite())
        filters = [0, 3] if got.dim() > 1 else [0, 3, 4, 7]
        assert got[filters].isfinite().all()
    for got, expected in zip(got_w_hats, w_hats, strict=True):
        assert torch.equal(got.isnan(), expected.isnan())

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from videonorm.ops import DECOMPOSITIONS
from videonorm.ops.weight_standardize import (
    Formula,
    weight_standardize,
    weight_standardize_layers,
    weight_standardize_reference,
)

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
OP = torch.ops.videonorm.weight_standardize.default
BACKWARD_OP = torch.ops.videonorm.weight_standardize_backward.default

OPTIONS = {  # every formula, with an eps that is felt
    "default": {},
    "biased": {"eps": 1e-1},
    "unbiased": {"eps": 1e-1, "unbiased": True},
    "on_std": {"eps": 1e-1, "unbiased": True, "eps_placement": "on_std"},
    "floor_below": {"eps": 1e-4, "eps_placement": "floor"},
    "floor_above": {"eps": 10.0, "eps_placement": "floor"},
    "multiplier": {"eps": 1e-1, "multiplier": 0.3},
    "center_only": {"scale": False},
    "scale_only": {"eps": 1e-1, "center": False},
    "scale_only_on_std": {"eps": 1e-1, "center": False, "unbiased": True, "eps_placement": "on_std"},
}
WITH_GAIN = [(name, gain) for name in OPTIONS for gain in (False, True)]


def make_inputs(shape=(5, 4, 3, 2, 2), dtype=torch.float64, memory_format=torch.contiguous_format, mean=0.5):
    """weight, gain and grad_w_hat, all of them exact in `dtype`."""
    generator = torch.Generator().manual_seed(0)
    weight, grad = (torch.randn(2, *shape, generator=generator, dtype=torch.float64)).to(dtype)
    gain = 1 + torch.rand(shape[0], generator=generator, dtype=torch.float64).to(dtype)
    return (weight + mean).contiguous(memory_format=memory_format), gain, grad


def definition(
    weight,
    gain=None,
    center=True,
    scale=True,
    unbiased=False,
    eps=1e-10,
    eps_placement="under_root",
    multiplier=1.0,
):
    """Filter by filter, in words of the formula."""
    filters = []
    for w, g in zip(weight, torch.ones(len(weight)) if gain is None else gain, strict=True):
        n = w.numel()
        mean = w.sum() / n
        var = ((w - mean) ** 2).sum() / (n - 1 if unbiased else n)
        r = {
            "under_root": lambda v: 1 / (v + eps).sqrt(),
            "on_std": lambda v: 1 / (v.sqrt() + eps),
            "floor": lambda v: 1 / v.clamp(min=eps).sqrt(),
        }[eps_placement](var)
        filters.append(multiplier * g * (w - mean if center else w) * (r if scale else 1))
    return torch.stack(filters)


def positional(weights, gains, options, dtype=None):
    """The operator's arguments: two options are a list of one for each layer."""
    *same, placement, eps, multiplier = Formula(**options)
    count = len(weights)
    return weights, gains, *same, [eps] * count, placement, [multiplier] * count, dtype or weights[0].dtype


def standardize(weight, gain=None, **options):
    """`weight_standardize` with the formula's options as keywords."""
    return weight_standardize(weight, gain, Formula(**options))


@pytest.mark.parametrize("form", ["reference", "operator"])
@pytest.mark.parametrize("name, with_gain", WITH_GAIN)
def test_value_and_gradient_are_the_definition(name, with_gain, form):
    weight, gain, grad = make_inputs()
    leaves = [t.requires_grad_() for t in ([weight, gain] if with_gain else [weight])]
    if form == "operator":
        got = standardize(*leaves, **OPTIONS[name])
    else:
        (got,), _, _ = weight_standardize_reference(*positional(leaves[:1], leaves[1:], OPTIONS[name]))
    want = definition(*leaves, **OPTIONS[name])
    torch.testing.assert_close(got, want)
    for computed, expected in zip(
        torch.autograd.grad(got, leaves, grad), torch.autograd.grad(want, leaves, grad), strict=True
    ):
        torch.testing.assert_close(computed, expected)


@pytest.mark.parametrize("name, with_gain", WITH_GAIN)
def test_gradcheck(name, with_gain):
    weight, gain, _ = make_inputs((2, 3, 2, 1, 1))
    leaves = [t.requires_grad_() for t in ([weight, gain] if with_gain else [weight])]
    assert torch.autograd.gradcheck(lambda *t: standardize(*t, **OPTIONS[name]), leaves)


@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", OPTIONS)
def test_error_is_at_most_twice_eager(name, dtype, memory_format, mean, assert_at_most_twice):
    weight, gain, grad = make_inputs((6, 8, 3, 3, 3), dtype, memory_format, mean)

    def run(function, to):
        leaves = [t.to(to).requires_grad_() for t in (weight, gain)]
        w_hat = function(*leaves, **OPTIONS[name])
        return [w_hat, *torch.autograd.grad(w_hat, leaves, grad.to(to))]

    exact = run(definition, torch.float64)
    for values in zip(run(standardize, dtype), run(definition, dtype), exact, strict=True):
        assert_at_most_twice(*values)


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_dtypes_and_memory_format(memory_format):
    """The arithmetic is fp32 and is rounded once, to the dtype that was asked for."""
    weight, gain, grad = make_inputs(dtype=torch.float32, memory_format=memory_format)
    leaves = [t.requires_grad_() for t in (weight, gain)]
    w_hat = weight_standardize(*leaves, dtype=torch.bfloat16)
    assert torch.equal(w_hat, weight_standardize(*leaves).bfloat16())
    grads = torch.autograd.grad(w_hat, leaves, grad.bfloat16())
    assert [t.dtype for t in (w_hat, *grads)] == [torch.bfloat16, torch.float32, torch.float32]
    assert w_hat.stride() == grads[0].stride() == weight.stride()
    _, mean, var = OP(*positional([weight.bfloat16()], [], {}))
    assert mean.dtype == var.dtype == torch.float32


@pytest.mark.parametrize(
    "options", [o for o in OPTIONS.values() if o], ids=[n for n, o in OPTIONS.items() if o]
)
def test_a_constant_filter_has_finite_gradients(options):
    weight = torch.full((2, 3, 1, 1, 1), 0.25).requires_grad_()
    w_hat = standardize(weight, **options)
    w_hat.sum().backward()
    assert w_hat.isfinite().all() and weight.grad.isfinite().all()


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 100.1])
def test_a_constant_filter_is_standardized_to_0(value):
    for shape in ((4, 3, 1, 1, 1), (4, 64, 3, 3, 3), (4, 7, 3, 3, 3)):
        assert weight_standardize(torch.full(shape, value)).abs().max() <= 1e-7


@pytest.mark.parametrize("mean", [1.0, 10.0, 100.0, 1000.0])
def test_far_off_centre(mean):
    """The error, forward and backward, is at most that of a formula by var_mean, from mean / std = 10 on."""
    weight, gain, grad = make_inputs((8, 64, 3, 3, 3), torch.float32, mean=mean)

    def by_var_mean(w, g):
        var, center = torch.var_mean(w, (1, 2, 3, 4), correction=0, keepdim=True)
        return (w - center) * (torch.rsqrt(var + 1e-10) * g.view(-1, 1, 1, 1, 1))

    def run(function, to):
        leaves = [t.to(to).requires_grad_() for t in (weight, gain)]
        w_hat = function(*leaves)
        return [w_hat, *torch.autograd.grad(w_hat, leaves, grad.to(to))]

    results = zip(
        run(weight_standardize, torch.float32),
        run(by_var_mean, torch.float32),
        run(by_var_mean, torch.float64),
        strict=True,
    )
    for got, base, exact in results:
        error, allowed = ((t - exact).abs().max() for t in (got, base))
        assert error <= 1.2 * allowed + 1e-6 * exact.abs().max()


def test_double_backward_is_refused():
    weight = make_inputs()[0].requires_grad_()
    (grad,) = torch.autograd.grad(weight_standardize(weight).pow(3).sum(), weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="videonorm::weight_standardize is differentiable once"):
        grad.sum().backward()


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_opcheck(memory_format):
    weight, gain, grad = make_inputs(dtype=torch.float32, memory_format=memory_format)
    other = make_inputs((2, 3, 1, 1, 1), torch.float32)[0]
    grads = [grad, torch.randn_like(other)]
    weights = [weight.requires_grad_(), other.requires_grad_()]
    for arguments in (
        positional(weights, [gain.requires_grad_(), torch.rand(2)], OPTIONS["on_std"]),
        positional(weights, [], {}, torch.bfloat16),
    ):
        torch.library.opcheck(OP, arguments)
        w_hats, mean, var = OP(*arguments)
        _, gains, *options, dtype = arguments
        constants = [[t.detach() for t in tensors] for tensors in (weights, gains)]
        backward = ([grad.to(dtype) for grad in grads], *constants, mean, var, *options)
        torch.library.opcheck(BACKWARD_OP, backward)


def test_compile():
    weight, gain, grad = make_inputs(dtype=torch.float32)
    leaves = [t.requires_grad_() for t in (weight, gain)]

    def function(w, g):
        return 2 * standardize(w + 1, g, eps=1e-5, unbiased=True)

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for got, want in zip(
        torch.autograd.grad(compiled(*leaves), leaves, grad),
        torch.autograd.grad(function(*leaves), leaves, grad),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(make_inputs(dtype=torch.float32)[0])

    def forward(self, x: Tensor) -> Tensor:
        return x @ weight_standardize(self.weight).flatten(1).T


def test_export_with_and_without_the_operator():
    layer, x = Layer(), torch.randn(3, 48)
    program = torch.export.export(layer, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    standard = program.run_decompositions(DECOMPOSITIONS)
    assert "videonorm" in str(program.graph) and "videonorm" not in str(standard.graph)
    x = torch.randn(5, 48)
    for exported in (program, standard):
        torch.testing.assert_close(exported.module()(x), layer(x))


def make_layers(dtype=torch.float32):
    """weights, gains and grad_w_hats of three layers."""
    shapes = [(5, 4, 3, 2, 2), (2, 3, 1, 1, 1), (4, 4, 1, 3, 3)]
    return zip(*(make_inputs(shape, dtype) for shape in shapes), strict=True)


FORMULAS = [
    Formula(unbiased=True, eps=eps, multiplier=multiplier)
    for eps, multiplier in ((0.1, 1.0), (1e-5, 0.5), (1e-3, 2.0))
]


@pytest.mark.parametrize("with_gains", [False, True])
@pytest.mark.parametrize("used", [[0, 1, 2], [0, 2], [1]], ids=str)
def test_layers_together_are_layers_alone(used, with_gains):
    """To the bit; and a layer that is not `used` in the loss has no gradient, not one of zeros."""
    weights, gains, grads = map(list, make_layers())
    leaves = [t.requires_grad_() for t in (weights + gains if with_gains else weights)]
    together = weight_standardize_layers(weights, gains if with_gains else [], FORMULAS)
    alone = [
        weight_standardize(weight, gain if with_gains else None, formula)
        for weight, gain, formula in zip(weights, gains, FORMULAS, strict=True)
    ]
    assert all(map(torch.equal, together, alone))
    got, want = (
        torch.autograd.grad([w_hats[i] for i in used], leaves, [grads[i] for i in used], allow_unused=True)
        for w_hats in (together, alone)
    )
    for a, b in zip(got, want, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_gradcheck_of_layers():
    weights, gains, _ = map(list, make_layers(torch.float64))

    def function(*leaves):
        return weight_standardize_layers(leaves[:3], leaves[3:], FORMULAS)

    assert torch.autograd.gradcheck(
        lambda *t: tuple(function(*t)), [t[:2].requires_grad_() for t in weights + gains]
    )


def test_fake_cuda_tensors():
    with FakeTensorMode():
        weight = torch.empty(8, 4, 3, 3, 3, device="cuda").to(memory_format=torch.channels_last_3d)
        w_hat = weight_standardize(weight, dtype=torch.bfloat16)
        assert (w_hat.device.type, w_hat.dtype, w_hat.stride()) == ("cuda", torch.bfloat16, weight.stride())


WEIGHT = torch.zeros(4, 3, 1, 1, 1)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((WEIGHT[0, 0, 0, 0],), {}, r"weight \(shape \(1,\), torch.float32\) must be \(C_out, ...\)"),
        ((WEIGHT.int(),), {}, r"weight \(.*, torch.int32\) must be .* of one of \(torch.float32, "),
        ((WEIGHT,), {"dtype": torch.int32}, r"dtype \(torch.int32\) must be one of \(torch.float32, "),
        ((WEIGHT[:0],), {}, r"weight \(shape \(0, 3, 1, 1, 1\), .* with C_out at least 1,"),
        ((WEIGHT[:, :1],), {}, r"fan-in \(1\) must be at least 2 to standardize a filter"),
        ((WEIGHT, torch.zeros(4, 1)), {}, r"gain \(shape \(4, 1\)\) must have the shape \(4,\)"),
        (
            (WEIGHT, torch.zeros(4, device="meta")),
            {},
            r"gain \(on meta\) must be on the device of weight",
        ),
        (
            (WEIGHT,),
            {"eps_placement": "inside"},
            r"eps_placement \('inside'\) must be one of \('under",
        ),
    ],
)
def test_errors(arguments, options, message):
    dtype = options.pop("dtype", None)
    with pytest.raises(ValueError, match=message):
        weight_standardize(arguments[0], *(arguments[1:] or [None]), Formula(**options), dtype)


@pytest.mark.parametrize("formulas", [[Formula()], [Formula(), Formula(center=False)]], ids=["few", "unlike"])
def test_errors_of_formulas(formulas):
    message = r"formulas \(Formula\(.*\) must be one for each weight \(2\), and differ in eps and multiplier"
    with pytest.raises(ValueError, match=message):
        weight_standardize_layers([WEIGHT, WEIGHT], [], formulas)


@pytest.mark.parametrize(
    "weights, gains, message",
    [
        (
            [WEIGHT, WEIGHT.half()],
            [],
            r"weight \(torch.float16 on cpu\) must have the dtype and device of the first one"
            r" \(torch.float32 on cpu\)",
        ),
        ([WEIGHT, WEIGHT.to("meta")], [], r"weight \(torch.float32 on meta\) must have the dtype and device"),
        (
            [WEIGHT, WEIGHT],
            [torch.zeros(4)],
            r"gains \(1 tensors\) must be one for each weight \(2\), or none",
        ),
    ],
)
def test_errors_of_layers(weights, gains, message):
    with pytest.raises(ValueError, match=message):
        weight_standardize_layers(weights, gains, [Formula(), Formula(eps=1e-5)])

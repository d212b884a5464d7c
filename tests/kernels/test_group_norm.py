"""group_norm.cu, run on the CPU: every variant, forward and backward, against float64."""

import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from videonorm.kernels import group_norm as kernels
from videonorm.kernels.group_norm import Geometry, geometry, plan_for, units
from videonorm.ops.group_norm import group_norm_reference

from .group_norm_passes import FORMATS, FUSED, check, make_inputs, run
from .shim import Shim, changed

LAST = torch.channels_last_3d
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    Shim().build(units())


@pytest.mark.parametrize("unit", units(), ids=str)
def test_every_variant(shim, unit, assert_at_most_twice):
    macros = dict(unit.macros)
    vector, last = int(macros["VECTOR"]), macros["CHANNELS_LAST"] == "1"
    # A sample or, of contiguous ones, a row is an odd number of accesses, so that no wider one fits.
    shape = (2, 3 * vector, 3, 3, 5) if last else (2, 6, 1, 9, 7 * vector)
    launched = []
    launch = shim.launch
    shim.launch = lambda unit, kernel, *rest: (launched.append((unit, kernel)), launch(unit, kernel, *rest))
    for fused in FUSED:
        memory_format = FORMATS["channels_last" if last else "contiguous"]
        check(shim, shape, 3, DTYPES[macros["SCALAR"]], memory_format, fused, assert_at_most_twice)
    assert {used for used, _ in launched} == {unit}
    kernel_file = (kernels.__file__ or "").removesuffix(".py") + ".cu"
    with open(kernel_file) as source:
        names = re.findall(r"^KERNEL (\w+)\(", source.read(), re.MULTILINE)
    assert len(names) == 10 and {kernel for _, kernel in launched} == set(names)


SHAPES = {  # ((N, C, T, H, W), G)
    "one_channel_a_group": ((1, 32, 3, 5, 5), 32),
    "two": ((2, 64, 2, 5, 5), 32),
    "three": ((2, 96, 2, 5, 3), 32),
    "six": ((1, 192, 1, 5, 3), 32),
    "twenty_six": ((1, 832, 1, 3, 3), 32),
    "one_wide_group": ((1, 2048, 1, 2, 2), 1),
    "wide_group_with_a_rest": ((1, 921, 1, 2, 3), 1),  # of the 256 channels that are merged at a time
    "more_samples_than_are_merged_at_a_time": ((9, 264, 1, 2, 4), 8),
    "one_narrow_group": ((3, 8, 2, 3, 3), 1),
    "prime": ((1, 7, 1, 3, 11), 7),
    "two_sites": ((5, 64, 2, 1, 1), 32),
    "one_site": ((2, 2048, 1, 1, 1), 32),
    "one_site_one_group": ((2, 6, 1, 1, 1), 2),
    "one_channel": ((4, 1, 5, 8, 8), 1),
    "many_chunks": ((1, 16, 8, 20, 20), 4),
    "two_samples_many_chunks": ((2, 40, 3, 20, 21), 5),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(("shape", "num_groups"), SHAPES.values(), ids=SHAPES)
def test_odd_sizes(shim, shape, num_groups, memory_format, dtype, assert_at_most_twice):
    for fused in ("relu", "add_relu"):
        check(shim, shape, num_groups, dtype, memory_format, fused, assert_at_most_twice)


@pytest.mark.parametrize(
    ("shape", "num_groups", "dtype", "vector"),
    [
        ((2, 54, 2, 4, 7), 27, torch.bfloat16, 8),  # X3D's: rows of 4 sites
        ((1, 108, 2, 5, 3), 6, torch.float16, 8),  # rows of 2
        ((2, 45, 4, 6, 10), 3, torch.float16, 8),  # rows of 8, two columns
        ((2, 45, 4, 6, 10), 45, torch.float32, 4),
        ((2, 54, 2, 5, 7), 2, torch.bfloat16, 4),  # 70 sites: no rows of 4
        ((3, 1, 2, 2, 5), 1, torch.bfloat16, 4),
    ],
    ids=str,
)
def test_rows_of_several_sites(shape, num_groups, dtype, vector, assert_at_most_twice):
    """Channels that no wide access divides are read by wide ones all the same."""
    shim, used = Shim(), set()
    shim.multiprocessors = 40
    launch = shim.launch
    shim.launch = lambda unit, *rest: (used.add(dict(unit.macros)["VECTOR"]), launch(unit, *rest))
    for fused in ("relu", "add_relu"):
        check(shim, shape, num_groups, dtype, LAST, fused, assert_at_most_twice)
    assert used == {str(vector)}


def test_places_are_counted_in_an_int(shim):
    """What has so many channels has rows of one site."""
    x = torch.empty(1, 2, 2**31 - 1, device="meta", dtype=torch.bfloat16).transpose(1, 2)
    assert kernels._plan(shim, x, torch.empty(1, 1), None, None, 1e-5).template.places == 2**31 - 1


@pytest.mark.parametrize("mean", [0.0, 500.0])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_any_mean(shim, memory_format, mean, assert_at_most_twice):
    check(shim, (2, 64, 4, 7, 7), 32, torch.float32, memory_format, "plain", assert_at_most_twice, mean)


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_bits_do_not_depend_on_the_order_of_threads(memory_format):
    inputs = make_inputs((2, 24, 4, 11, 11), torch.float32, memory_format)
    first, *others = (run(Shim(seed), *inputs, 4, relu=True) for seed in range(3))
    for other in others:
        assert all(map(torch.equal, first, other))


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("multiprocessors", [1, 13, 148])
def test_any_number_of_multiprocessors(shim, multiprocessors, memory_format, assert_at_most_twice):
    shim.multiprocessors = multiprocessors
    shape = (1, 24, 8, 19, 20)
    check(shim, shape, 6, torch.float32, memory_format, "add_relu", assert_at_most_twice)


def test_ranks_without_a_site(shim, assert_at_most_twice):
    """The last chunk has one site for nine ranks: some merge nothing with nothing."""
    shim.multiprocessors = 13
    cut = geometry(1, 108, 4 * 19 * 19, channels_last=True, vector=4, multiprocessors=13)
    assert (cut.depth, 4 * 19 * 19 % cut.sites_per_chunk) == (9, 1)
    check(shim, (1, 108, 4, 19, 19), 4, torch.float32, LAST, "add_relu", assert_at_most_twice)


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(
    "weight_dtype, bias_dtype",
    list(itertools.product([None, torch.float32, torch.bfloat16], repeat=2)),
    ids=str,
)
def test_parameters_of_any_dtype(shim, weight_dtype, bias_dtype, memory_format):
    x, weight, bias, _, grad_y = make_inputs((2, 8, 2, 3, 5), torch.bfloat16, memory_format)
    weight, bias = weight.bfloat16().float(), bias.bfloat16().float()  # both dtypes hold them exactly
    given = [
        None if dtype is None else t.to(dtype) for t, dtype in ((weight, weight_dtype), (bias, bias_dtype))
    ]
    filled = [
        torch.full_like(t, default) if g is None else t
        for t, g, default in ((weight, given[0], 1.0), (bias, given[1], 0.0))
    ]
    got = run(shim, x, *given, None, grad_y, 4, relu=True)
    assert all(map(torch.equal, got, run(shim, x, *filled, None, grad_y, 4, relu=True)))


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_addresses_that_are_not_aligned(shim, memory_format):
    """Every bit is as it is elsewhere, and so is the unit: no other than a warm-up has loaded."""
    x, weight, bias, residual, grad_y = make_inputs((1, 8, 1, 3, 8), torch.bfloat16, memory_format)
    want = run(shim, x, weight, bias, residual, grad_y, 2, relu=True)
    units, launch = set(), shim.launch
    shim.launch = lambda unit, *rest: (units.add(dict(unit.macros)["VECTOR"]), launch(unit, *rest))

    def moved(tensor: Tensor, scalars: int) -> Tensor:
        memory = torch.empty(tensor.numel() + scalars, dtype=tensor.dtype)[scalars:]
        return memory.as_strided(tensor.shape, tensor.stride(), scalars).copy_(tensor)

    for scalars in (1, 2, 4):
        inputs = [moved(t, scalars) for t in (x, weight, bias, residual, grad_y)]
        assert all(map(torch.equal, run(shim, *inputs, 2, relu=True), want))
    for index in range(5):
        inputs = [x, weight, bias, residual, grad_y]
        inputs[index] = moved(inputs[index], 3)
        assert all(map(torch.equal, run(shim, *inputs, 2, relu=True), want))
    assert units == {"8"}


def test_calls_of_one_shape(shim):
    """What else a plan depends on, none of which the one before may leave to the next."""
    formats, dtypes = FORMATS.values(), (None, torch.float32, torch.bfloat16)
    for memory_format, num_groups, eps, *of_affine in itertools.product(
        formats, (2, 4), (1e-5, 1.0), dtypes, dtypes
    ):
        x, *affine, _, _ = make_inputs((2, 8, 1, 3, 5), torch.bfloat16, memory_format, mean=0.0)
        weight, bias = (None if to is None else t.to(to) for t, to in zip(affine, of_affine, strict=True))
        got = kernels.forward(shim, x, weight, bias, None, num_groups, eps, False)
        want = group_norm_reference(x, weight, bias, None, num_groups, eps, False)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("add", [False, True], ids=["relu", "add_relu"])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_nan_and_inf_stay_in_their_group(shim, memory_format, add):
    x, weight, bias, residual, grad_y = make_inputs((2, 8, 2, 3, 5), torch.float32, memory_format)
    x[0, 0, 0, 0, 0], x[1, 7, 1, 1, 1] = float("nan"), float("inf")
    leaves = [t.double().requires_grad_() for t in (x, weight, bias, residual)[: 3 + add]]
    y = group_norm_reference(*leaves[:3], leaves[3] if add else None, 4, 1e-5, True)[0]
    want = [y, *torch.autograd.grad(y, leaves, grad_y.double())]
    got = run(shim, x, weight, bias, residual if add else None, grad_y, 4, relu=True)
    for result, wanted in zip(got, want, strict=False):
        assert torch.equal(result.isfinite(), wanted.isfinite())
        torch.testing.assert_close(result.double(), wanted, equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("add", [False, True], ids=["relu", "add_relu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_what_rounds_to_zero_has_no_gradient(shim, memory_format, dtype, add):
    """y is positive in fp32 and 0 in its own dtype, and a ReLU's gradient goes by the y that there is."""
    x, weight, bias, residual, grad_y = make_inputs((2, 8, 2, 3, 5), dtype, memory_format)
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # x_hat is about -3 to 3
    weight, bias, residual = weight.sign() * smallest, torch.zeros(8), torch.zeros_like(residual)
    y, grad_x, grad_weight, grad_bias, _ = run(
        shim, x, weight, bias, residual if add else None, grad_y, 2, relu=True
    )
    dz = grad_y * (y > 0)
    _, want_x, want_weight, want_bias, _ = run(shim, x, weight, bias, None, dz, 2, relu=False)
    z = F.group_norm(x.float().contiguous(), 2, weight, bias)
    assert ((z > 0) & (y == 0)).sum() > 10 and (y > 0).sum() > 10
    assert torch.equal(grad_bias, want_bias) and torch.equal(grad_weight, want_weight)
    assert torch.equal(grad_x, want_x)


def test_constant_group(shim):
    x, weight, bias, _, grad_y = make_inputs((1, 4, 1, 3, 5), torch.float32, torch.channels_last_3d)
    x.fill_(1 / 3)
    y, _, rstd = kernels.forward(shim, x, weight, bias, None, 2, 1e-5, False)
    torch.testing.assert_close(y, bias.view(-1, 1, 1, 1).expand_as(y))
    torch.testing.assert_close(rstd, torch.full_like(rstd, 1e-5**-0.5))


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=4)))
def test_only_what_is_wanted(shim, wanted):
    x, weight, bias, residual, grad_y = make_inputs((2, 8, 2, 3, 5), torch.float32, torch.channels_last_3d)
    y, mean, rstd = kernels.forward(shim, x, weight, bias, residual, 2, 1e-5, True)
    saved = (grad_y, x, weight, bias, mean, rstd, y, 1e-5, True)
    every = kernels.backward(shim, *saved, [True] * 4)
    for grad, asked, full in zip(kernels.backward(shim, *saved, list(wanted)), wanted, every, strict=True):
        assert torch.equal(grad, full) if asked else grad.numel() == 0


MUTATIONS = [
    *(("__syncthreads();", index) for index in range(2)),  # the others: test_tickets.py
    ("mine.merge(other);", 0),
    (" + delta * delta * number() * share", 0),
    ("mean(slot) = fmaf(delta, share, mean(slot));", 0),
    ("number() = all;", 0),
]


@pytest.mark.parametrize("text, occurrence", MUTATIONS, ids=[f"{text}-{n}" for text, n in MUTATIONS])
def test_a_line_less_is_seen(text, occurrence):
    """Of the barriers and the merges none is idle: without it results are wrong, or the machine objects."""
    inputs = make_inputs((1, 48, 8, 12, 13), torch.float32, torch.channels_last_3d)
    want = run(Shim(), *inputs, 4, relu=True)
    with pytest.raises((RuntimeError, AssertionError)):
        for seed in range(5):
            got = run(Shim(seed, edit=changed(text, "", occurrence)), *inputs, 4, relu=True)
            for result, wanted in zip(got, want, strict=True):
                torch.testing.assert_close(result, wanted, rtol=1e-5, atol=1e-5)


ASAN = """
import torch
from shim import Shim
from videonorm.kernels import group_norm as kernels

for memory_format in (torch.contiguous_format, torch.channels_last_3d):
    for shape, groups in (((2, 24, 2, 7, 9), 3), ((1, 40, 1, 6, 15), 5)):
        x = torch.randn(shape).contiguous(memory_format=memory_format)
        weight = torch.randn(shape[1])
        y, mean, rstd = kernels.forward(Shim(asan=True), x, weight, weight, x, groups, 1e-5, True)
        kernels.backward(Shim(asan=True), x, x, weight, weight, mean, rstd, y, 1e-5, True, [True] * 4)
print("clean")
"""


def test_no_access_is_out_of_bounds(run_with_asan):
    process = run_with_asan(ASAN)
    assert process.stdout == "clean\n", process.stderr


# ----------------------------------------------------------------------------------------------- geometry

H100 = 132


@pytest.mark.parametrize("samples", [1, 2, 8, 64])
@pytest.mark.parametrize("channels", [1, 3, 24, 45, 64, 921, 2048])
@pytest.mark.parametrize("sites", [1, 2, 49, 784, 16 * 56 * 56, 64 * 224 * 224])
@pytest.mark.parametrize("channels_last", [False, True])
def test_geometry_covers_everything_once(samples, channels, sites, channels_last):
    row = channels if channels_last else sites
    for vector in (v for v in (1, 2, 4, 8) if row % v == 0):
        cut = geometry(
            samples, channels, sites, channels_last=channels_last, vector=vector, multiprocessors=H100
        )
        per_lane = vector if channels_last else 1
        assert (cut.columns - 1) * cut.width * per_lane < channels <= cut.columns * cut.width * per_lane
        assert (cut.chunks - 1) * cut.sites_per_chunk < sites <= cut.chunks * cut.sites_per_chunk
        assert 1 <= cut.width * cut.depth <= kernels.THREADS
        assert channels_last or cut.sites_per_chunk % vector == 0


@pytest.mark.parametrize("channels, sites", [(64, 16 * 56 * 56), (256, 8 * 28 * 28), (2048, 16 * 7 * 7)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_one_clip_fills_the_machine(channels, sites, channels_last):
    vector = 8 if channels_last or sites % 8 == 0 else 1
    cut = geometry(1, channels, sites, channels_last=channels_last, vector=vector, multiprocessors=H100)
    assert cut.columns * cut.chunks >= H100


def test_sites_beyond_an_int():
    cut = geometry(1, 1, 2**33, channels_last=True, vector=1, multiprocessors=1)
    assert cut.sites_per_chunk <= 2**30 and cut.chunks * cut.sites_per_chunk >= 2**33


def test_a_known_geometry():
    cut = geometry(8, 64, 8 * 56 * 56, channels_last=True, vector=8, multiprocessors=H100)
    assert cut == Geometry(columns=1, width=8, depth=32, chunks=99, sites_per_chunk=254)


def test_more_blocks_than_a_grid_holds():
    with pytest.raises(ValueError, match=r"batch size \(2147483648\) must leave at most 2147483647 blocks"):
        geometry(2**31, 1, 1, channels_last=True, vector=1, multiprocessors=1)
    with pytest.raises(ValueError, match=r"batch size \(134217728\) must leave at most 2147483647 blocks"):
        plan_for(2**27, 32, 1, 32, torch.bfloat16, True, 8, 132)  # a block a sample and group

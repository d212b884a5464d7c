"""No kernel accesses what lies behind a tensor, in any variant. (ASan sees more, of a few of them.)"""

import faulthandler
import itertools
import multiprocessing

import pytest
import torch

from videonorm.kernels import weight_standardize

from .fences import Fenced, fenced
from .group_norm_passes import FORMATS, FUSED, make_inputs, run
from .shim import Shim

SHAPES = [
    ((2, 24, 2, 7, 9), 3),
    ((1, 40, 3, 11, 16), 5),
    ((4, 8, 2, 3, 5), 2),  # the statistics' memory ends at the fence, as they are 8
    ((1, 924, 1, 1, 3), 1),  # more channels than threads, and lanes than channels
    ((2, 1, 1, 1, 1), 1),
]


def test_a_fence_ends_the_process():
    values = fenced(torch.ones(3))

    def look(index: int) -> None:
        faulthandler.disable()
        values.as_strided((1,), (1,), values.storage_offset() + index).item()

    exit_codes = []
    for index in (2, 4):  # 3 is where the next aligned access begins
        process = multiprocessing.get_context("fork").Process(target=look, args=(index,))
        process.start()
        process.join()
        exit_codes.append(process.exitcode)
    assert exit_codes[0] == 0 and exit_codes[1] < 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("fused", FUSED)
def test_group_norm(fused, memory_format, dtype):
    relu, add = FUSED[fused]
    for shape, groups in SHAPES:
        x, weight, bias, residual, grad_y = make_inputs(shape, dtype, memory_format)
        inputs = [x, weight, bias, residual if add else None, grad_y]
        want = run(Shim(), *inputs, groups, relu)
        with Fenced():
            got = run(Shim(), *(None if t is None else fenced(t) for t in inputs), groups, relu)
        assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("pair", [*itertools.product([torch.float32, torch.bfloat16], repeat=2)], ids=str)
def test_weight_standardize(pair):
    shapes = [(3, 36), (2, 27), (1, 64, 3, 3, 1), (2, 512, 1, 3, 3), (2, 4100)]  # with accesses of 1, 4 and 8
    weights = [fenced(torch.randn(shape).to(pair[0])) for shape in shapes]
    gains = [fenced(torch.rand(shape[0])) for shape in shapes]
    options = True, True, False, [1e-5] * len(shapes), "under_root", [1.0] * len(shapes)

    def both_passes() -> list[torch.Tensor]:
        w_hats, mean, var = weight_standardize.forward(Shim(), weights, gains, *options, pair[1])
        grads = weight_standardize.backward(Shim(), w_hats, weights, gains, mean, var, *options)
        return [*w_hats, mean, var, *grads[0], grads[1]]

    want = both_passes()
    with Fenced():
        assert all(map(torch.equal, both_passes(), want))

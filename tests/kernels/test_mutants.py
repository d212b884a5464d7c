"""Kernels with one mistake each, which shows at inputs of other tests."""

import faulthandler
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import videonorm.kernels

from .group_norm_passes import make_inputs, run
from .shim import Edit, Shim
from .test_offsets import CASES, LAST_BLOCK, MERGES, check_filters, check_merges, check_passes

pytestmark = pytest.mark.slow  # a compilation each


KERNELS = Path(videonorm.kernels.__file__).parent


class Mutant(NamedTuple):
    right: str
    wrong: str
    seen_by: Callable[[Edit], None]
    occurrence: int = 0

    def edit(self, source: str) -> str:
        parts = source.split(self.right)
        if len(parts) < self.occurrence + 2:
            return source  # another file's
        before, after = parts[: self.occurrence + 1], parts[self.occurrence + 1 :]
        return self.right.join(before) + self.wrong + self.right.join(after)


def last_blocks(edit: Edit) -> None:
    for case in CASES.values():
        check_passes(Shim(edit=edit, blocks=LAST_BLOCK), case)


def last_groups(edit: Edit) -> None:
    for sizes in MERGES.values():
        check_merges(Shim(edit=edit, blocks=LAST_BLOCK), *sizes)


def last_filter(edit: Edit) -> None:
    check_filters(Shim(edit=edit, blocks=LAST_BLOCK))


def values(shape: tuple[int, ...], num_groups: int, multiprocessors: int = 4) -> Callable[[Edit], None]:
    def see(edit: Edit) -> None:
        inputs = make_inputs(shape, torch.float32, torch.channels_last_3d)
        right, wrong = Shim(), Shim(edit=edit)
        right.multiprocessors = wrong.multiprocessors = multiprocessors
        want, got = (run(shim, *inputs, num_groups, relu=True) for shim in (right, wrong))
        for result, wanted in zip(got, want, strict=True):
            torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-4)

    return see


def masks(edit: Edit) -> None:
    """y that rounds to 0, and NaN: the gradients of the bias, which a mask alone decides."""
    for dtype in (torch.float16, torch.bfloat16):
        x, weight, bias, _, grad_y = make_inputs((2, 8, 2, 3, 5), dtype, torch.channels_last_3d)
        weight, bias = weight.sign() * torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps, bias * 0
        x[1, 0] = float("nan")
        right, wrong = (
            run(shim, x, weight, bias, None, grad_y, 2, relu=True)[3] for shim in (Shim(), Shim(edit=edit))
        )
        assert torch.equal(right, wrong)


WIDE = values((1, 921, 1, 2, 3), 1)
SAMPLES = values((9, 264, 1, 2, 4), 8)
EMPTY = values((1, 108, 4, 19, 19), 4, multiprocessors=13)
ROW = "(static_cast<long long>(sample) * p.chunks + chunk) * p.channels"
START = "const long long start = static_cast<long long>(filter) * layer.n;"

MUTANTS = {
    "merges_the_first_rows_alone": Mutant("row += ROWS_AT_ONCE * depth", "row += rows", SAMPLES),
    "merges_no_rest_of_a_band": Mutant("first < lanes;", "first + width <= lanes;", WIDE),
    "merges_the_next_band_too": Mutant("lane < lanes && rank < depth", "rank < depth", WIDE),
    "merges_nothing_with_nothing": Mutant(
        "all > 0 ? other.number() / all : 0", "other.number() / all", EMPTY
    ),
    "mask_of_fp32": Mutant("<= LARGEST_ZERO<SCALAR>)", "<= 0)", masks),
    "mask_lets_too_little_pass": Mutant("<= LARGEST_ZERO<SCALAR>)", "<= 2 * LARGEST_ZERO<SCALAR>)", masks),
    "mask_stops_nan": Mutant(
        "return !(affine(x, slot) <= LARGEST_ZERO<SCALAR>);",
        "return affine(x, slot) > LARGEST_ZERO<SCALAR>;",
        masks,
    ),
    "int_offset": Mutant("long long offset, step;", "int offset, step;", last_blocks),
    "int_offset_channels_last": Mutant(
        "offset = (sample * p.sites +", "offset = (sample * static_cast<int>(p.sites) +", last_blocks
    ),
    "int_first_site": Mutant(
        "offset = (sample * p.sites + first_site + rank) * p.channels",
        "offset = static_cast<int>(sample * p.sites + first_site + rank) * p.channels",
        last_blocks,
    ),
    "int_channel": Mutant(
        "offset = (static_cast<long long>(sample) * p.channels + channel) * p.sites",
        "offset = (sample * p.channels + channel) * static_cast<int>(p.sites)",
        last_blocks,
    ),
    "int_row": Mutant(
        "offset = (static_cast<long long>(sample) * p.channels + channel)",
        "offset = (sample * p.channels + channel)",
        last_blocks,
    ),
    "int_at": Mutant("long long at(int index)", "int at(int index)", last_blocks),
    "int_row_of": Mutant(ROW, "(sample * p.chunks + chunk) * p.channels", last_blocks),
    "int_row_of_a_merge": Mutant(ROW, "(sample * p.chunks + chunk) * p.channels", last_groups),
    "int_filter": Mutant(START, "const int start = filter * layer.n;", last_filter),
    "int_filter_of_gradient": Mutant(START, "const int start = filter * layer.n;", last_filter, 1),
}


def quietly(mutant: Mutant) -> None:
    faulthandler.disable()
    mutant.seen_by(mutant.edit)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutant_dies(mutant):
    texts = [path.read_text() for path in KERNELS.glob("*.cu")]
    assert [mutant.edit(text) != text for text in texts].count(True) == 1
    # A wrong address may end the process that runs it.
    process = multiprocessing.get_context("fork").Process(target=quietly, args=(mutant,))
    process.start()
    process.join()
    assert process.exitcode


@pytest.mark.parametrize("see", [last_blocks, last_groups, last_filter, masks, WIDE, SAMPLES, EMPTY])
def test_what_is_right_lives(see):
    see(lambda source: source)

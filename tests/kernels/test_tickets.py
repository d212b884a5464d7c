"""The last block merges: in any order of the blocks, behind every launch before, and never too early."""

import math
import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from videonorm.kernels import group_norm as kernels
from videonorm.kernels.group_norm import plan_for

from .group_norm_passes import FORMATS, make_inputs, run
from .shim import Edit, Shim, changed

LAST = torch.channels_last_3d
# Two samples of one band, which has two columns of two segments of chunks, and several places a channel: all
# that blocks wait for, and all that they do then.
SHAPE, GROUPS, MULTIPROCESSORS = (2, 45, 5, 8, 8), 3, 60


@pytest.fixture(autouse=True)
def _few_pairs_for_a_block(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So that there are segments; and what was not written is NaN, not what an earlier call has left."""
    monkeypatch.setattr(kernels, "MERGED_BY_A_BLOCK", 256)
    monkeypatch.setattr(kernels, "ACCESSES", 1)
    kernels._plan_of_shape.cache_clear()
    torch.use_deterministic_algorithms(True)  # in which PyTorch fills empty tensors
    yield
    torch.use_deterministic_algorithms(False)
    kernels._plan_of_shape.cache_clear()


def passes(shim: Shim, memory_format: torch.memory_format = LAST) -> list[Tensor]:
    shim.multiprocessors = MULTIPROCESSORS
    return run(shim, *make_inputs(SHAPE, torch.bfloat16, memory_format), GROUPS, relu=True)


def test_the_shape_has_all_levels():
    samples, channels, *sizes = SHAPE
    plan = plan_for(samples, channels, math.prod(sizes), GROUPS, torch.bfloat16, True, 8, MULTIPROCESSORS)
    params = plan.template
    assert params.columns == params.columns_per_band == 2 and params.places == 8 * channels
    assert (params.chunks, params.chunks_per_segment) == (3, 2)
    assert plan.counters == 1 + 2 + 2 * 2 * 2


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_nothing_races(memory_format):
    passes(Shim(races=True), memory_format)


def test_bits_do_not_depend_on_the_order_of_blocks():
    first, *others = (passes(Shim(seed)) for seed in range(6))
    for other in others:
        assert all(map(torch.equal, first, other))


def test_a_failed_launch_leaves_nothing_behind():
    """It ended in the middle of a grid, with tickets taken."""
    want, shim = passes(Shim()), Shim()
    launch = shim.launch

    def half(unit, kernel, grid, block, shared_bytes, params):
        shim.blocks = slice(grid // 2)
        launch(unit, kernel, grid, block, 4, params)  # too little shared memory

    shim.launch = half
    with pytest.raises(RuntimeError, match="wrote behind its 4 bytes of shared memory"):
        passes(shim)
    shim.launch, shim.blocks = launch, slice(None)
    assert all(map(torch.equal, passes(shim), want))


class Changed(Shim):
    """Its kernels that merge are edited, the others are as they are: fewer to compile."""

    def __init__(self, edit: Edit, *, races: bool = False) -> None:
        super().__init__(edit=lambda source: edit(self.merging(source)), races=races)
        self._others = Shim()

    @staticmethod
    def merging(source: str) -> str:
        return re.sub(r"^KERNEL (?!moments|sums_add_relu)\w+\(.*\n", "", source, flags=re.MULTILINE)

    def launch(self, unit, kernel, *rest):
        launch = super().launch if kernel in ("moments", "sums_add_relu") else self._others.launch
        launch(unit, kernel, *rest)


TICKET = "atomicInc(counter, number - 1) == number - 1"
UNORDERED = r"thread \d+ of block \d+ (reads|writes) what thread \d+ of block \d+ (reads|writes), in no order"
RACES = {
    "no_fence_before_the_ticket": changed("__threadfence();", ""),
    "no_fence_behind_the_ticket": changed("__threadfence();", "", 1),
    "no_barrier_before_the_ticket": changed("__syncthreads();\n    if (number == 1)", "if (number == 1)"),
    "no_barrier_behind_merged_rows": changed("__syncthreads();\n    if (p.places", "if (p.places"),
    "no_barrier_behind_merged_places": changed("__syncthreads();\n}", "}"),
    "no_ticket": changed("return __syncthreads_or(last);", "return __syncthreads_or(true);"),
    "a_ticket_too_early": changed(TICKET, "atomicInc(counter, number - 1) == number - 2"),
}
MISTAKES = {
    "no_reset": changed(TICKET, "atomicInc(counter, 0xffffffffu) == number - 1"),
    "a_reset_too_late": changed(TICKET, "atomicInc(counter, number) == number - 1"),
    "a_ticket_too_late": changed(TICKET, "atomicInc(counter, number - 1) == number"),
    "a_ticket_too_early": RACES["a_ticket_too_early"],
}


def test_no_barrier_or_fence_is_forgotten_here():
    """Two of the barriers are among the mutations of test_group_norm."""
    with open((kernels.__file__ or "").removesuffix(".py") + ".cu") as source:
        text = source.read()
    assert (text.count("__syncthreads();"), text.count("__threadfence();")) == (5, 2)


def test_what_is_right_passes():
    want = passes(Shim())
    for races in (False, True):
        shim = Changed(lambda source: source, races=races)
        for _ in range(2):
            assert all(map(torch.equal, passes(shim), want))


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(edit, id=name, marks=() if "fence" in name else pytest.mark.slow)  # a compilation each
        for name, edit in RACES.items()
    ],
)
def test_what_nothing_orders_is_seen(edit):
    with pytest.raises(RuntimeError, match=UNORDERED):
        passes(Changed(edit, races=True))


@pytest.mark.parametrize("edit", MISTAKES.values(), ids=MISTAKES)
def test_wrong_tickets_are_seen(edit):
    """By the results of this step or the next, or by counters that are not 0 between."""
    want, shim = passes(Shim()), Changed(edit)
    with pytest.raises((RuntimeError, AssertionError)):
        for _ in range(2):
            for result, wanted in zip(passes(shim), want, strict=True):
                assert torch.equal(result, wanted)

"""The last block merges: in any order of the blocks, behind every launch before, and never too early."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from videonorm.kernels import group_norm as kernels
from videonorm.kernels.group_norm import plan_for

from .group_norm_passes import FORMATS, make_inputs, run
from .shim import Edit, Shim

# Two samples of one band, which has two columns of two segments of chunks: all that blocks wait for.
SHAPE, GROUPS, MULTIPROCESSORS = (2, 160, 5, 6, 6), 2, 60


@pytest.fixture(autouse=True)
def _few_pairs_for_a_block(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So that there are segments; and what was not written is NaN, not what an earlier call has left."""
    monkeypatch.setattr(kernels, "MERGED_BY_A_BLOCK", 256)
    plan_for.cache_clear()
    torch.use_deterministic_algorithms(True)  # in which PyTorch fills empty tensors
    yield
    torch.use_deterministic_algorithms(False)
    plan_for.cache_clear()


def passes(shim: Shim, memory_format: torch.memory_format = torch.channels_last_3d) -> list[Tensor]:
    shim.multiprocessors = MULTIPROCESSORS
    return run(shim, *make_inputs(SHAPE, torch.float32, memory_format), GROUPS, relu=True)


def test_the_shape_has_all_levels():
    samples, channels, *sizes = SHAPE
    sites = sizes[0] * sizes[1] * sizes[2]
    plan = plan_for(samples, channels, sites, GROUPS, torch.float32, True, 4, MULTIPROCESSORS)
    params = plan.template
    assert params.columns == params.columns_per_band == 2
    assert (params.chunks, params.chunks_per_segment) == (5, 3)
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
        shim._blocks = slice(grid // 2)
        launch(unit, kernel, grid, block, 4, params)  # too little shared memory

    shim.launch = half
    with pytest.raises(RuntimeError, match="wrote behind its 4 bytes of shared memory"):
        passes(shim)
    shim.launch, shim._blocks = launch, slice(None)
    assert all(map(torch.equal, passes(shim), want))


def changed(right: str, wrong: str, occurrence: int = 0) -> Edit:
    def edit(source: str) -> str:
        parts = source.split(right)
        assert len(parts) > occurrence + 1
        return right.join(parts[: occurrence + 1]) + wrong + right.join(parts[occurrence + 1 :])

    return edit


TICKET = "atomicInc(counter, number - 1) == number - 1"
UNORDERED = r"thread \d+ of block \d+ (reads|writes) what thread \d+ of block \d+ (reads|writes), in no order"
RACES = {
    "no_fence_before_the_ticket": changed("__threadfence();", ""),
    "no_fence_behind_the_ticket": changed("__threadfence();", "", 1),
    "no_barrier_before_the_ticket": changed("__syncthreads();\n    if (number == 1)", "if (number == 1)"),
    "no_barrier_behind_what_was_merged": changed("__syncthreads();\n    return true;", "return true;"),
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
    assert (text.count("__syncthreads();"), text.count("__threadfence();")) == (4, 2)


@pytest.mark.parametrize("edit", RACES.values(), ids=RACES)
def test_what_nothing_orders_is_seen(edit):
    with pytest.raises(RuntimeError, match=UNORDERED):
        passes(Shim(edit=edit, races=True))


@pytest.mark.parametrize("edit", MISTAKES.values(), ids=MISTAKES)
def test_wrong_tickets_are_seen(edit):
    """By the results of this step or the next, or by counters that are not 0 between."""
    want, shim = passes(Shim()), Shim(edit=edit)
    with pytest.raises((RuntimeError, AssertionError)):
        for _ in range(2):
            for result, wanted in zip(passes(shim), want, strict=True):
                assert torch.equal(result, wanted)

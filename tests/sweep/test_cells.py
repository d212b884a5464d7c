import pytest

from videonorm.sweep.cells import cells_of, is_tied


def test_seeds_are_taken_together(result):
    rows = [
        result("gn", 8, 2, 0.5, seed=0, clips_per_second=10.0, peak_memory_mib=100.0),
        result("bn", 8, 2, 0.4),
        result("gn", 8, 2, 0.7, seed=1, clips_per_second=20.0, peak_memory_mib=300.0),
        result("gn", 8, 2, None, seed=2),
        result("gn", 4, 4, 0.2),
    ]
    first, second, third = cells_of(rows)
    assert (first.arm, first.shape) == ("gn", (4, 1, 4))
    assert (second.arm, second.shape, third.arm) == ("gn", (8, 1, 2), "bn")
    assert second.top1.value == pytest.approx(0.6)
    assert second.top1_of_seed == {0: 0.5, 1: 0.7}
    assert (second.clips_per_second, second.peak_memory_mib) == (15.0, 300.0)
    assert (len(second.done), len(second.results)) == (2, 3)


@pytest.mark.parametrize(
    "shapes, tied",
    [
        ([(4, 16), (8, 8), (16, 4)], True),
        ([(4, 16), (8, 16)], False),
        ([(4, 16), (4, 8)], False),
        ([(4, 16)], True),
    ],
)
def test_tied(result, shapes, tied):
    rows = [result(norm, length, size, 0.5) for norm in ("bn", "gn") for length, size in shapes]
    assert is_tied(cells_of(rows)) is tied

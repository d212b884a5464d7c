import pytest

from videonorm.sweep.cells import cells_of
from videonorm.sweep.comparisons import Comparisons


def test_only_common_seeds_are_compared(result):
    gn, bn, other = cells_of(
        [
            result("gn", 8, 2, 0.9, seed=0),
            result("gn", 8, 2, 0.1, seed=1),
            result("bn", 8, 2, 0.5, seed=0),
            result("ln", 8, 2, 0.5, seed=2),
        ]
    )
    comparisons = Comparisons([bn, gn, other])
    assert comparisons.difference(gn, bn).estimate().value == pytest.approx(0.4)
    assert comparisons.difference(gn, other) is None

"""Fixtures of all rooms."""

import os
from collections.abc import Callable

# The cores are taken by pytest's workers, and by what they start: before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

# With one process a file, those that take longest must not come last.
LONGEST = (
    *("test_readme.py", "test_readme_machine.py", "test_export.py", "test_ddp.py", "test_interruption.py"),
    *("test_transcode.py", "test_group_norm.py", "test_compile_units.py", "test_pack.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


AtMostTwice = Callable[[Tensor, Tensor, Tensor], None]


@pytest.fixture
def assert_at_most_twice() -> AtMostTwice:
    """Assert that an error is at most twice eager PyTorch's, plus an ulp of the largest value."""

    def check(got: Tensor, eager: Tensor, exact: Tensor) -> None:
        assert exact.dtype == torch.float64
        ulp = torch.finfo(got.dtype).eps * exact.abs().max()
        error, eager_error = ((t.double() - exact).abs().max() for t in (got, eager))
        assert error <= 2 * eager_error + ulp, f"error {error:.3g}, eager {eager_error:.3g}, ulp {ulp:.3g}"

    return check

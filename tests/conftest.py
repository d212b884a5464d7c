"""Fixtures of all rooms."""

import os
import signal
from collections.abc import Callable, Iterator

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


HANDLERS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[signal.Signals, object]]:
    """Those of a process of its own: whoever runs the tests may ignore some, as in the background."""
    before = {number: signal.signal(number, handler) for number, handler in HANDLERS.items()}
    yield HANDLERS
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Iterator[None]:
    result = yield
    _run_as_others()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Iterator[None]:
    result = yield
    _run_as_others()
    return result


def _run_as_others() -> None:
    """SVT-AV1 makes its caller a real-time process where it may, as root: nothing else gets a core then."""
    if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


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

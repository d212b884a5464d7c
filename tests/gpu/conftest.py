"""Tests of what only a GPU can show. Without one they are skipped; with VIDEONORM_REQUIRE_CUDA=1 they fail.

    VIDEONORM_REQUIRE_CUDA=1 pytest tests/gpu
    compute-sanitizer --tool memcheck --error-exitcode 1 pytest tests/gpu -k small
    compute-sanitizer --tool racecheck --error-exitcode 1 pytest tests/gpu -k small

The sanitizer needs minutes where the tests need seconds: "small" are those whose tensors are small. PyTorch's
caching allocator hides an access beyond a tensor but within its block; PYTORCH_NO_CUDA_MEMORY_CACHING=1 does
without it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from videonorm.ops import use


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA GPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    """A test of this folder needs a GPU, and kernels that cannot be had there are an error."""
    if not torch.cuda.is_available():
        if os.environ.get("VIDEONORM_REQUIRE_CUDA") == "1":
            pytest.fail("VIDEONORM_REQUIRE_CUDA is 1, and torch finds no GPU")
        pytest.skip("torch finds no GPU")
    torch.manual_seed(0)
    with use("cuda"):
        yield


@pytest.fixture
def full_precision() -> Iterator[None]:
    """fp32 convolutions in fp32, by algorithms that repeat themselves to the bit."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield

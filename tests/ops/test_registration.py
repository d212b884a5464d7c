"""Which implementation runs, with operators of this file's own; the meta device stands in for a GPU."""

import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
import torch

from videonorm.kernels.gpu import KernelError
from videonorm.ops import registration, use


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registration, "_without_kernels", set())
    with use("auto"):
        yield


class Registered:
    """An operator that tells which of its implementations ran, and what `cuda` raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, schema: str) -> None:
        self.error: Exception | None = None
        self.cuda_calls = 0
        implementations = {}
        library = type("Library", (), {})()
        library.define = lambda schema: None
        library.impl = lambda name, function, key: implementations.__setitem__(key, function)
        monkeypatch.setattr(registration, "LIBRARY", library)
        monkeypatch.setattr(torch.library, "register_fake", lambda *args, **options: None)
        monkeypatch.setattr(registration, "_differentiable", lambda *args: None)
        registration.register(
            schema,
            cpu=lambda *args: "cpu",
            cuda=self._cuda,
            reference=lambda *args: "reference",
            fake=lambda *args: None,
            backward=lambda *args: None,
        )
        self.on_cuda = implementations["CUDA"]

    def _cuda(self, *args: object) -> str:
        self.cuda_calls += 1
        if self.error:
            raise self.error
        return "cuda"


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> Registered:
    return Registered(monkeypatch, "tell(Tensor x, Tensor? weight, ScalarType dtype) -> Tensor")


X = torch.empty(2, device="meta")


def test_kernels_by_default(operator):
    assert operator.on_cuda(X, None, torch.float32) == "cuda"


def test_float64_goes_to_the_reference(operator):
    for args in ((X.double(), None), (X, X.double()), (X, torch.float64), ([X, X.double()], 1)):
        with use("cuda"):
            assert operator.on_cuda(*args) == "reference"
    assert operator.on_cuda([X, X], 1.0) == "cuda"


def test_use_reference(operator):
    use("reference")
    assert operator.on_cuda(X) == "reference"
    use("auto")
    assert operator.on_cuda(X) == "cuda"
    with use("reference"):
        assert operator.on_cuda(X) == "reference"
    assert operator.on_cuda(X) == "cuda"
    assert operator.cuda_calls == 2


def test_one_warning_where_kernels_cannot_be_had(operator):
    operator.error = KernelError("device (GeForce, sm_70) must be sm_75 or newer")
    with pytest.warns(UserWarning, match=r"instead of the CUDA kernels: device \(GeForce, sm_70\)") as warned:
        assert operator.on_cuda(X) == "reference"
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert operator.on_cuda(X) == "reference"
        assert operator.on_cuda([X]) == "reference"
    assert operator.cuda_calls == 1  # asked once


def test_use_cuda_makes_it_an_error(operator):
    operator.error = KernelError("no NVRTC")
    with pytest.warns(UserWarning):
        operator.on_cuda(X)
    with use("cuda"), pytest.raises(KernelError, match="no NVRTC"):
        operator.on_cuda(X)


def test_other_errors_are_not_hidden(operator):
    operator.error = RuntimeError("cannot be loaded while a CUDA graph is captured")
    with pytest.raises(RuntimeError, match="captured"):
        operator.on_cuda(X)


def test_an_unknown_choice():
    with pytest.raises(
        ValueError, match=r"implementation \('triton'\) must be one of \('auto', 'cuda', 'ref"
    ):
        use("triton")


def test_operators_need_no_cuda_package_on_the_cpu():
    script = """
import sys
sys.modules["cuda"] = None
import torch
from videonorm.ops import group_norm
group_norm(torch.ones(2, 4, 3), None, None, 2)
"""
    subprocess.run([sys.executable, "-c", script], check=True)

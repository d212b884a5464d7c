"""Which implementation runs, with operators of this file's own; the meta device stands in for a GPU."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from videonorm.kernels.gpu import KernelError
from videonorm.ops import registration, use


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registration, "_without_kernels", set())
    with use("auto"):
        yield


def tell(x: Tensor, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    return "reference"


class Registered:
    """An operator that tells which of its implementations ran, and what `cuda` raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: Exception | None = None
        self.cuda_calls = 0
        implementations = {}
        library = SimpleNamespace()
        library.define = lambda schema: setattr(self, "schema", schema)
        library.impl = lambda name, function, key: implementations.__setitem__(key, function)
        monkeypatch.setattr(registration, "LIBRARY", library)
        monkeypatch.setattr(registration, "DECOMPOSITIONS", {})
        monkeypatch.setattr(registration, "gpu", lambda device: f"the GPU {device}")
        monkeypatch.setattr(torch.library, "register_fake", lambda *args, **options: None)
        monkeypatch.setattr(
            registration, "Operator", lambda *args: SimpleNamespace(differentiable=lambda run: run)
        )
        monkeypatch.setattr(registration, "_operators", [])
        monkeypatch.setattr(torch.ops.videonorm, "tell", SimpleNamespace(default="tell"), raising=False)
        registration.register(
            "tell",
            tell,
            cpu=lambda *args: "cpu",
            cuda=self._cuda,
            fake=lambda *args: None,
            backward=lambda *args: None,
        )
        self.on_cuda = implementations["CUDA"]

    def _cuda(self, gpu: str, *args: object) -> str:
        assert gpu == "the GPU meta"
        self.cuda_calls += 1
        if self.error:
            raise self.error
        return "cuda"


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> Registered:
    return Registered(monkeypatch)


X = torch.empty(2, device="meta")


def test_the_reference_gives_schema_and_decomposition(operator):
    assert operator.schema == "tell(Tensor x, Tensor? weight, ScalarType dtype) -> Tensor"
    assert {"tell": tell} == registration.DECOMPOSITIONS


def test_kernels_by_default(operator):
    assert operator.on_cuda(X, None, torch.float32) == "cuda"


def test_float64_goes_to_the_reference(operator):
    for args in (
        (X.double(), None, None),
        (X, X.double(), None),
        (X, None, torch.float64),
        ([X, X.double()], 1, None),
    ):
        with use("cuda"):
            assert operator.on_cuda(*args) == "reference"
    assert operator.on_cuda([X, X], 1.0, None) == "cuda"


def test_use_reference(operator):
    use("reference")
    assert operator.on_cuda(X, None, None) == "reference"
    use("auto")
    assert operator.on_cuda(X, None, None) == "cuda"
    with use("reference"):
        assert operator.on_cuda(X, None, None) == "reference"
    assert operator.on_cuda(X, None, None) == "cuda"
    assert operator.cuda_calls == 2


def test_one_warning_where_kernels_cannot_be_had(operator):
    operator.error = KernelError("device (GeForce, sm_70) must be sm_75 or newer")
    with pytest.warns(UserWarning, match=r"instead of the CUDA kernels: device \(GeForce, sm_70\)") as warned:
        assert operator.on_cuda(X, None, None) == "reference"
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert operator.on_cuda(X, None, None) == "reference"
        assert operator.on_cuda([X], None, None) == "reference"
    assert operator.cuda_calls == 1  # asked once


def test_use_cuda_makes_it_an_error(operator):
    operator.error = KernelError("no NVRTC")
    with pytest.warns(UserWarning):
        operator.on_cuda(X, None, None)
    with use("cuda"), pytest.raises(KernelError, match="no NVRTC"):
        operator.on_cuda(X, None, None)


def test_other_errors_are_not_hidden(operator):
    operator.error = RuntimeError("cannot be loaded while a CUDA graph is captured")
    with pytest.raises(RuntimeError, match="captured"):
        operator.on_cuda(X, None, None)


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
from videonorm.ops.group_norm import group_norm
group_norm(torch.ones(2, 4, 3), None, None, 2)
"""
    subprocess.run([sys.executable, "-c", script], check=True)

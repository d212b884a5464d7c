import importlib.metadata
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from videonorm import doctor, kernels
from videonorm.data import available_decoders
from videonorm.kernels import compiler
from videonorm.kernels.compiler import Compiled
from videonorm.kernels.unit import KernelError, Unit
from videonorm.ops import convolution_backward

TINY = """
extern "C" __global__ void reverse(float* x) {
    __shared__ float values[10];
    values[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = values[9 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(1024) crowd(float* x) {
    float values[SIZE];
#pragma unroll
    for (int i = 0; i < SIZE; ++i) values[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < SIZE; ++i) x[i * 1024 + threadIdx.x] = values[SIZE - 1 - i] * values[i / 2];
}
"""


@pytest.fixture
def tiny_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Unit]:
    """Instead of ours, which take a while: one that fits in the registers and one that does not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "tiny.cu").write_text(TINY)
    monkeypatch.setattr(compiler, "FOLDER", tmp_path)
    units = [Unit("tiny.cu", (("SIZE", size),)) for size in ("4", "100")]
    monkeypatch.setattr(kernels, "units", lambda: units)
    return units


def test_report_names_what_there_is(capsys: pytest.CaptureFixture[str], tiny_units: list[Unit]) -> None:
    doctor.main([])
    report = capsys.readouterr().out
    for title in ("Machine", "CUDA", "Packages", "Video decoders", "Operators", "Kernels for sm_"):
        assert title in report
    for package in ("lightning", "safetensors"):
        assert importlib.metadata.version(package) in report
    assert torch.__version__ in report


def test_every_decoder_has_a_verdict() -> None:
    verdicts = dict(doctor.decoders())
    problems = available_decoders()
    assert verdicts.pop("auto") == "pyav"
    assert verdicts.keys() == problems.keys()
    for name, problem in problems.items():
        assert verdicts[name].endswith("works" if problem is None else problem)


def test_operators_are_those_of_the_dispatcher() -> None:
    rows = dict(doctor.operators())
    assert {"group_norm", "weight_standardize"} <= rows.keys()
    for name in ("group_norm", "weight_standardize"):
        cpu, cuda = rows[name].splitlines()
        assert cpu == "cpu: PyTorch operations"
        assert cuda.startswith("cuda: PyTorch" if "why" in rows else "cuda: compiled CUDA C++ kernels")
        assert ("no GPU" in cuda) == (not torch.cuda.is_available())


@pytest.mark.parametrize(
    "found, rows",
    [
        ((True, True), ["right", "right"]),
        ((False, True), ["wrong where a kernel is longer than the clip", "right"]),
        (
            (False, False),
            ["wrong where a kernel is longer than the clip", "wrong: train in 32-true on this CPU"],
        ),
    ],
)
def test_gradients_of_convolutions(monkeypatch: pytest.MonkeyPatch, found, rows) -> None:
    assert dict(doctor.convolutions())["as used"] == "right"
    monkeypatch.setattr(convolution_backward, "probe", lambda: found)
    assert list(dict(doctor.convolutions()).values()) == rows


def test_operators_without_kernels_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise KernelError("NVRTC could not be loaded: no such file")

    monkeypatch.setattr(compiler, "nvrtc_version", refuse)
    rows = dict(doctor.operators())
    assert rows["why"] == "NVRTC could not be loaded: no such file"
    assert rows["group_norm"].splitlines()[1].startswith("cuda: PyTorch operations, the reference")


def test_operator_without_an_implementation() -> None:
    library = torch.library.Library("videonorm", "FRAGMENT")
    library.define("unfinished(Tensor x) -> Tensor")
    library.impl("unfinished", lambda x: x, "CPU")
    cpu, cuda = dict(doctor.operators())["unfinished"].splitlines()
    assert cpu == "cpu: PyTorch operations"
    assert cuda == "cuda: none is registered for CUDA, so a call is an error"
    library._destroy()


def test_kernels_of_every_variant(tiny_units: list[Unit]) -> None:
    pytest.importorskip("cuda.core")
    console = Console(record=True, width=100, file=io.StringIO())
    tables = list(doctor.kernels(console))
    assert len(tables) == max(1, torch.cuda.device_count())
    assert torch.cuda.is_available() or tables[0].title == "Kernels for sm_90 (there is no GPU here): tiny.cu"
    console.print(tables[0])
    rows = [line.split("│")[1:-1] for line in console.export_text().splitlines() if "SIZE=" in line]
    small, large = ([cell.strip() for cell in row] for row in rows)
    assert small[0] == "SIZE=4" and small[2:] == ["0 to 40", "0"]
    assert large[0] == "SIZE=100" and re.fullmatch(r"\d+ to 64", large[1])
    assert re.fullmatch(r"\d+ in crowd", large[3])


def test_kernels_that_only_the_driver_can_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "units", lambda: [Unit("tiny.cu", (("SIZE", size),)) for size in "123"])
    monkeypatch.setattr(compiler, "compile", lambda unit, arch: Compiled("compute_75", b"", ""))
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(*doctor.kernels(console))
    report = console.export_text()
    assert "3 variants" in report and "compiled as PTX of compute_75, which the driver translates" in report


def test_kernels_that_cannot_be_compiled_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "units", lambda: [Unit("tiny.cu", ())])

    def refuse(unit: Unit, arch: str) -> None:
        raise KernelError("NVRTC could not be loaded: no such file")

    monkeypatch.setattr(compiler, "compile", refuse)
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(*doctor.kernels(console))
    assert "NVRTC could not be loaded: no such file" in console.export_text()


def test_gpu_is_named_or_its_absence_explained() -> None:
    rows = dict(doctor.cuda())
    if torch.cuda.is_available():
        assert torch.cuda.get_device_name(0) in rows["cuda:0"]
    elif torch.version.cuda:
        assert rows["GPU"].startswith("none: ")
    else:
        assert rows == {"torch": f"{torch.__version__}, built without CUDA"}


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from videonorm import doctor
try:
    doctor.main(["--help"])
except SystemExit:
    pass
assert not {"torch", "numpy", "av", "rich"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)

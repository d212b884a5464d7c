import importlib.metadata
import subprocess
import sys

import pytest
import torch

from videonorm import doctor
from videonorm.data import available_decoders


def test_report_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main([])
    report = capsys.readouterr().out
    for title in ("Machine", "CUDA", "Packages", "Video decoders", "Operators"):
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
        assert cpu.endswith("registered for CPU")
        assert "registered for CUDA" in cuda
        assert ("no GPU" in cuda) == (not torch.cuda.is_available())


def test_operator_without_an_implementation() -> None:
    library = torch.library.Library("videonorm", "FRAGMENT")
    library.define("unfinished(Tensor x) -> Tensor")
    library.impl("unfinished", lambda x: x, "CPU")
    cpu, cuda = dict(doctor.operators())["unfinished"].splitlines()
    assert cpu.endswith("registered for CPU")
    assert "none is registered for CUDA, so a call is an error" in cuda
    library._destroy()


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

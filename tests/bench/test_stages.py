"""The real stages of `videonorm bench all`: commands that the benchmarks understand, and what they need."""

import importlib
import sys

import pytest

from videonorm.bench import every_kernel, kernels, stages, step
from videonorm.bench.stages import NEEDS_GPU, SANITIZERS, new_stages

GPU_ALONE = {"tests", "replay", "clips", *SANITIZERS}


def benchmarks(folder, device):
    """The benchmark and the options of every stage that is one."""
    for stage in new_stages(folder, device):
        if stage.has_rows:
            python, *start, name = stage.command[:5]
            assert (python, start) == (sys.executable, ["-m", "videonorm", "bench"])
            module = importlib.import_module(f"videonorm.bench.{name}")
            yield stage, module, module.parser().parse_args(stage.command[5:])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_benchmarks_understand_their_options(tmp_path, device):
    names = []
    for stage, module, options in benchmarks(tmp_path, device):
        names.append(stage.name)
        assert options.out == tmp_path / f"{stage.name}.csv"
        if module.__name__.endswith("host"):
            assert not options.quick and (options.repeats == 9) == (device == "cpu")
            continue
        assert options.device == device
        assert options.quick == (device == "cpu" and stage.missing is None)
        if module is step:
            assert step.select_cases(options)
    assert names == ["kernels", "step", "host", "replay", "profile", "clips", "all_kernels"]


def test_the_shapes_that_tell_most(tmp_path):
    (options,) = (options for stage, _, options in benchmarks(tmp_path, "cuda") if stage.name == "kernels")
    cases = kernels.select_cases(options)
    assert len(cases) == 2 * len(stages.SHAPES) + 1
    assert cases[-1].about["nets"] == "r3d-50" and {case.about["dtype"] for case in cases} == {"bfloat16"}


def test_on_a_cpu_what_needs_a_gpu_is_skipped(tmp_path):
    missing = {stage.name: stage.missing for stage in new_stages(tmp_path, "cpu")}
    assert {name for name, why in missing.items() if why} == GPU_ALONE
    assert {missing[name] for name in GPU_ALONE} == {NEEDS_GPU}


def test_what_comes_with_the_repository_and_with_the_toolkit(tmp_path, monkeypatch):
    def missing():
        return {stage.name: stage.missing for stage in new_stages(tmp_path, "cuda") if stage.missing}

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    assert missing().keys() == set(SANITIZERS)
    assert "compute-sanitizer is neither in PATH nor in CUDA_HOME/bin" in missing()["memcheck"]
    tool = tmp_path / "cuda" / "bin" / "compute-sanitizer"
    tool.parent.mkdir(parents=True)
    tool.touch(0o755)
    assert missing() == {}
    memcheck = next(stage for stage in new_stages(tmp_path, "cuda") if stage.name == "memcheck")
    assert memcheck.command[:3] == (str(tool), "--tool", "memcheck")
    assert memcheck.command[-2:] == (every_kernel.__name__, "cuda")

    package = tmp_path / "site-packages" / "videonorm"
    monkeypatch.setattr(stages, "__file__", str(package / "bench" / "stages.py"))
    assert missing() == {"tests": "tests/gpu is not here: it comes with the repository"}


def test_every_kernel_runs():
    every_kernel.main("cpu")

"""The command line of the benchmarks."""

import subprocess
import sys

import pytest
import torch

from videonorm.bench.command import BENCHMARKS, main
from videonorm.errors import UserError


@pytest.mark.parametrize("arguments", [["--help"], [], *([name, "--help"] for name in BENCHMARKS)])
def test_help(arguments):
    code = (
        "import sys\n"
        "from videonorm.bench.command import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'torch', 'numpy', 'rich'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    shown = ("--quick", "--out FILE.csv") if arguments[:-1] else tuple(BENCHMARKS)
    assert all(text in result.stdout for text in shown)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["kernel"], r"must be one of kernels, step, host, decode, loader, views; did you mean kernels\?"),
        (
            ["kernels", "--quik"],
            r"--quik is no option here; did you mean --quick\? \(see videonorm bench kernels --help\)",
        ),
        (["kernels", "--op", "bn"], "argument --op: invalid choice: 'bn'"),
        (["kernels", "--batch_size", "0"], r"--batch_size: \(0\) must be a whole number, 1 or more"),
        (["step", "--repeats", "x"], r"--repeats: \(x\) must be a whole number, 1 or more"),
        (["decode", "--clip", "8*8"], r"--clip: \(8\*8\) must be frames x stride, as 8x8"),
        (["views", "--num_crops", "2"], "argument --num_crops: invalid choice: 2"),
        (["kernels", "--device", "cpu", "--quick", "--num_frames", "8"], "--quick has shapes of its own"),
        (["step", "--device", "gpu"], r"device \(gpu\) must be auto, cpu or cuda"),
        (["step", "--device", "cpu", "--max_clips"], "--max_clips must be asked of a GPU: --device is cpu"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("name", ["kernels", "step"])
def test_cuda_without_a_gpu(name, tmp_path):
    with pytest.raises(UserError, match=r"device \(cuda\) must be present, and this machine has 0"):
        main([name, "--device", "cuda", "--out", str(tmp_path / "results.csv")])
    assert not any(tmp_path.iterdir())


def test_an_error_is_one_sentence():
    command = [sys.executable, "-m", "videonorm", "bench", "kernels", "--no-such-option"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and not result.stdout

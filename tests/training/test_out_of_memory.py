"""A training that takes more memory than there is ends with the sizes that ask for it."""

import resource
from pathlib import Path

import pytest
import torch

from videonorm.errors import UserError
from videonorm.training import VideoClassifier, out_of_memory
from videonorm.training.cli import main
from videonorm.training.out_of_memory import is_out_of_memory, limited_to_memory

MIB = 2**20


def test_on_a_cpu_it_is_an_error(tmp_path, monkeypatch):
    status = Path("/proc/self/status").read_text()
    taken = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))
    of_machine = tmp_path / "meminfo"
    of_machine.write_text(f"MemTotal: {taken + 256 * 1024} kB\nMemFree: 1 kB\nSwapTotal: {256 * 1024} kB\n")
    monkeypatch.setattr(out_of_memory, "MEMORY", of_machine)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limited_to_memory():
        torch.empty(128 * MIB, dtype=torch.uint8)
        with pytest.raises(RuntimeError) as caught:
            torch.empty(1024 * MIB, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    torch.empty(1024 * MIB, dtype=torch.uint8)


def test_a_limit_that_is_there_stays(monkeypatch):
    set_limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2**30, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: set_limits.append(limits))
    with limited_to_memory():
        pass
    assert set_limits == [(2**30, resource.RLIM_INFINITY)] * 2


SIZES = r"num_frames \(4\) x batch_size \(3\) at crop_size \(16\) must fit in memory: "


@pytest.mark.parametrize(
    "error, kind, said",
    [
        (torch.OutOfMemoryError("CUDA out of\nmemory."), UserError, f"^{SIZES}CUDA out of memory.$"),
        (RuntimeError("a shape is wrong"), RuntimeError, "^a shape is wrong$"),
    ],
    ids=["memory", "other"],
)
def test_the_sentence_names_the_sizes(recipe, tmp_path, monkeypatch, error, kind, said):
    def step(self, *batch):
        raise error

    monkeypatch.setattr(VideoClassifier, "training_step", step)
    sizes = ["--data.num_frames", "4", "--data.batch_size", "3", "--data.crop_size", "16"]
    with pytest.raises(kind, match=said):
        main(["fit", "-c", str(recipe), *sizes, "--trainer.default_root_dir", str(tmp_path / "run")])

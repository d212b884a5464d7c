"""Tensors out of files: what stands around them is left out, and no code is run."""

import os

import numpy as np
import pytest
import safetensors.torch
import torch

from videonorm.errors import UserError
from videonorm.models import read_state_dict

STATE = {"stem.conv.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.tensor([1, 2])}


def prefixed(prefix):
    return {prefix + name: tensor for name, tensor in STATE.items()}


WRITERS = {
    "bare.pth": lambda path: torch.save(STATE, path),
    "torchvision.pth": lambda path: torch.save({"model": STATE, "optimizer": {}, "epoch": 3}, path),
    "hub.pyth": lambda path: torch.save({"model_state": STATE, "cfg": "A: 1\n"}, path),
    "of_two.pyth": lambda path: torch.save({"model_state": prefixed("module.model.")}, path),
    "ours.ckpt": lambda path: torch.save({"state_dict": prefixed("backbone."), "epoch": 1}, path),
    "a.safetensors": lambda path: safetensors.torch.save_file(STATE, path),
    "a.npz": lambda path: np.savez(path, **{name: tensor.numpy() for name, tensor in STATE.items()}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_files(name, tmp_path):
    WRITERS[name](tmp_path / name)
    read = read_state_dict(tmp_path / name)
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[key], STATE[key]) for key in STATE)


def test_a_folder_of_export(tmp_path):
    safetensors.torch.save_file(STATE, tmp_path / "weights.safetensors")
    assert read_state_dict(tmp_path).keys() == STATE.keys()


def test_an_average_that_has_not_begun_is_not_read(tmp_path):
    """WeightAveraging of Lightning: before its first step `state_dict` is what training began with."""
    begun_with = {name: torch.zeros_like(tensor) for name, tensor in prefixed("backbone.").items()}
    content = {"state_dict": begun_with, "current_model_state": prefixed("backbone.")}
    for steps, expected in ((0, STATE["head.bias"]), (3, torch.zeros(2, dtype=torch.int64))):
        torch.save({**content, "averaging_state": {"n_averaged": torch.tensor(steps)}}, tmp_path / "a.ckpt")
        assert torch.equal(read_state_dict(tmp_path / "a.ckpt")["head.bias"], expected)
    for broken in ({}, 1, {"n_averaged": "many"}, {"n_averaged": torch.tensor([1, 2])}):
        torch.save({**content, "averaging_state": broken}, tmp_path / "a.ckpt")
        with pytest.raises(UserError, match=r"weights \(.*a.ckpt\) must tell its weights from their average"):
            read_state_dict(tmp_path / "a.ckpt")


class Code:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_named_and_does_not_run(tmp_path, zipped):
    path, mark = tmp_path / "evil.pth", tmp_path / "mark"
    torch.save({"model_state": STATE, "more": Code(mark)}, path, _use_new_zipfile_serialization=zipped)
    said = r"weights \(.*evil.pth\) must be .* without code in it, and calls posix.system$"
    with pytest.raises(UserError, match=said):
        read_state_dict(path)
    assert not mark.exists()


def with_objects(path):
    np.savez(path, a=np.array([{}], dtype=object))


def truncated(path):
    path.write_bytes(safetensors.torch.save(STATE)[:-4])


BAD = {
    "absent.pth": (lambda path: None, "must be an existing file"),
    "empty.pth": (lambda path: path.touch(), "must be a checkpoint that torch can read"),
    "text.pth": (lambda path: path.write_text("text"), "must be a checkpoint that torch can read"),
    "number.pth": (
        lambda path: torch.save(3, path),
        "must hold a state dict, by itself or under model_state",
    ),
    "nothing.pth": (lambda path: torch.save({}, path), "must hold a state dict"),
    "numbered.pth": (lambda path: torch.save({3: torch.ones(1)}, path), "must hold a state dict"),
    "empty.safetensors": (lambda path: path.touch(), "must be a safetensors file"),
    "truncated.safetensors": (truncated, "must be a safetensors file"),
    "objects.npz": (with_objects, "must be an npz file of plain arrays, without objects"),
    "empty.npz": (lambda path: path.touch(), "must be an npz file of plain arrays"),
    "sparse.pth": (
        lambda path: torch.save({"a": torch.ones(2, 2).to_sparse()}, path),
        "must hold dense tensors",
    ),
    "complex.pth": (lambda path: torch.save({"a": torch.ones(2) * 1j}, path), "real numbers, as a is not"),
    "nan.pth": (
        lambda path: torch.save({"a": torch.tensor([0.0, np.nan])}, path),
        "finite numbers, and a has",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_cannot_be_used(name, tmp_path):
    write, message = BAD[name]
    write(tmp_path / name)
    with pytest.raises(UserError, match=message) as error:
        read_state_dict(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)

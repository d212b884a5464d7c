"""A checkpoint that is judged has no say in which classes are imported: the recipe has."""

import os
import sys

import pytest
import torch

from videonorm.errors import UserError
from videonorm.training.cli import main


def test_hyper_parameters_name_no_class(recipe, videos, tmp_path, monkeypatch):
    """Lightning's command line would build what they name."""
    mark = tmp_path / "mark"
    (tmp_path / "somebodys_module.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Net: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    named = {"backbone": {"class_path": "somebodys_module.Net"}}
    content = {"state_dict": {}, "global_step": 1, "epoch": 0, "pytorch-lightning_version": "2.6.0"}
    torch.save({**content, "loops": {}, "hyper_parameters": named}, tmp_path / "bad.ckpt")
    options = ["--trainer.default_root_dir", str(tmp_path / "run"), "--ckpt_path", str(tmp_path / "bad.ckpt")]
    with pytest.raises((UserError, RuntimeError), match="issing"):  # weights
        main(["validate", "-c", str(recipe), *options])
    assert not mark.exists() and "somebodys_module" not in sys.modules


class Code:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


SLOW = [
    pytest.param(command, "--ckpt_path", marks=pytest.mark.slow) for command in ("validate", "predict", "fit")
]


@pytest.mark.parametrize("command, option", [("fit", "--model.weights"), ("test", "--ckpt_path"), *SLOW])
def test_code_is_refused_by_name(command, option, recipe, tmp_path):
    path, mark = tmp_path / "evil.ckpt", tmp_path / "mark"
    torch.save({"state_dict": {}, "global_step": 1, "callbacks": Code(mark)}, path)
    options = ["--trainer.default_root_dir", str(tmp_path / "run"), option, str(path)]
    with pytest.raises(UserError, match=rf"{option[2:]} \(.*evil.ckpt\) must .*, and calls posix.system$"):
        main([command, "-c", str(recipe), *options])
    assert os.listdir(tmp_path) == ["evil.ckpt"]

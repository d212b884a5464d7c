"""A run that starts with weights of others: what it says, records, and does not read again."""

import hashlib
import json

import pytest
import torch
import yaml

from videonorm.errors import UserError
from videonorm.import_weights import main as import_weights
from videonorm.models import ResNet3d
from videonorm.training import VideoClassifier
from videonorm.training.cli import main

FROZEN = ("--model.backbone.init_args.norm", "videonorm.layers.FrozenBatchNorm3d")


def run(command, recipe, folder, *options):
    main([command, "-c", str(recipe), "--trainer.default_root_dir", str(folder), *map(str, options)])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The recipe's network with batch norm, for three classes, with running statistics of its own."""
    torch.manual_seed(0)
    state = ResNet3d(10, num_classes=3, width=4).state_dict()
    for name, tensor in state.items():
        if name.endswith(("running_mean", "running_var", "norm.weight")):
            state[name] = torch.rand_like(tensor) + 0.5
    path = tmp_path_factory.mktemp("weights") / "of_three.pth"
    torch.save({"model": state}, path)
    return path


def backbone_of(folder):
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return {name.removeprefix("backbone."): of for name, of in saved["state_dict"].items()}


def test_a_run_that_starts_with_them(recipe, weights, tmp_path, capsys):
    content = weights.read_bytes()
    file, folder = tmp_path / "start.pth", tmp_path / "run"
    file.write_bytes(content)
    start = [*FROZEN, "--model.weights", file]
    with pytest.raises(
        UserError, match=r"model.weights \(.*start.pth\) must have the model's 2 classes, and has 3"
    ):
        run("fit", recipe, folder, *start)
    assert not folder.exists()
    capsys.readouterr()

    run("fit", recipe, folder, *start, "--model.new", "head", "--trainer.max_steps", 1)
    said = [line for line in capsys.readouterr().out.splitlines() if "mapped" in line]
    assert len(said) == 1 and said[0].startswith(f"model.weights ({file}), the model's own names: ")
    assert said[0].endswith("new: head.weight, head.bias; left over: head.weight, head.bias")
    record = json.loads((folder / "run.json").read_text())["weights"]
    assert record["name"] == "start.pth" and record["new"] == ["head"]
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    trained, given = backbone_of(folder), torch.load(weights, weights_only=True)["model"]
    still = [name for name in given if ".norm." in name]
    assert still and all(torch.equal(trained[name], given[name]) for name in still)
    assert not torch.equal(trained["stem.conv.weight"], given["stem.conv.weight"])

    file.unlink()  # nothing of it is needed any more
    again = ["--model.new", "head", "--trainer.max_steps", 2, "--ckpt_path", "last"]
    run("fit", recipe, folder, *start, *again)
    assert json.loads((folder / "run.json").read_text())["weights"] == record
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["weights"] == str(file)


def test_new_parts_of_nothing():
    with pytest.raises(UserError, match=r"new \(head\) must be left out without weights"):
        VideoClassifier(ResNet3d(10, num_classes=3, width=2), torch.optim.SGD, new="head")


@pytest.mark.slow
def test_what_is_imported_is_judged(recipe, weights, tmp_path, capsys):
    imported = tmp_path / "imported.ckpt"
    import_weights([str(weights), "--to", str(imported), "-c", str(recipe), "--new", "head"])
    run("validate", recipe, tmp_path / "run", "--ckpt_path", imported)
    assert "val/top1" in capsys.readouterr().out
    with pytest.raises(UserError, match="must hold the state of a training to go on with"):
        run("fit", recipe, tmp_path / "other", "--ckpt_path", imported)

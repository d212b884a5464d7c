"""Files that name classes: a card, a checkpoint. What they may not name is never imported."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from videonorm.errors import UserError
from videonorm.evaluation.artifact import load_artifact
from videonorm.evaluation.classes import check_classes
from videonorm.evaluation.export import export_checkpoint

Checkpoint = Callable[..., Path]
CPU = torch.device("cpu")


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `somebodys`, with a network in it, whose import makes a file; the path of that file."""
    (tmp_path / "path").mkdir()
    mark = tmp_path / "mark"
    source = f"import videonorm.models\nopen({str(mark)!r}, 'w').close()\n"
    source += "class Net(videonorm.models.ResNet3d): pass\n"
    (tmp_path / "path" / "somebodys.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    monkeypatch.delitem(sys.modules, "somebodys", raising=False)
    return mark


PASS = [
    "videonorm.models.ResNet3d",
    "videonorm.models.resnet3d.ResNet3d",
    "videonorm.models.from_pytorchvideo",
    "videonorm.layers.WSConv3d",
    "torch.nn.Conv3d",
    "torch.nn.modules.batchnorm.BatchNorm3d",
    "torchvision.models.video.r3d_18",
    "pytorchvideo.models.x3d.create_x3d",
    "r3d",
    "a/b.pth",
    "1.5",
    None,
    3,
]
REFUSED = {
    "somebodys.Net": "is in none of them",
    "os.system": "is in none of them",
    "torch.hub.load": "is in none of them",
    "torchvision.io.read_file": "is in none of them",
    "videonormal.Net": "is in none of them",
    # Modules that the allowed ones import.
    "videonorm.machine.subprocess.run": "leads out of videonorm",
    "torch.nn.modules.module.warnings.warn": "leads out of torch.nn",
    "torchvision.models.resnet.torch.hub.load": "leads out of torchvision.models",
    "torch.nn.modules.module.OrderedDict": "leads out of torch.nn",
    "pytorchvideo.models.hub.resnet.load_state_dict_from_url": "leads out of pytorchvideo.models",
    "torch.nn.Module.load_state_dict": "leads out of torch.nn",
    "torch.nn.functional": "leads out of torch.nn",
    # Functions that do something else, or unpickle what they are told to.
    "videonorm.files.write": "is no network and no layer",
    "videonorm.models.load_foreign": "is no network and no layer",
    "videonorm.errors.UserError": "is no network and no layer",
    "pytorchvideo.models.hub.resnet._resnet": "is no network and no layer",
    "pytorchvideo.models.hub.utils.hub_model_builder": "is no network and no layer",
    # YAML in a text.
    "{class_path: somebodys.Net}": "is no plain word",
    "class_path: somebodys.Net": "is no plain word",
    "a\nb": "is no plain word",
}


def nested(name: Any) -> list[Any]:
    """Descriptions that have it in some place."""
    return [
        {"class_path": name},
        {"class_path": "videonorm.models.ResNet3d", "init_args": {"norm": {"class_path": name}}},
        {"class_path": "videonorm.models.ResNet3d", "init_args": {"conv": name}},
        {"class_path": "videonorm.models.ResNet3d", "dict_kwargs": {"more": [1, [name]]}},
    ]


@pytest.mark.parametrize("name", PASS)
def test_networks_and_layers_may_be_named(name: Any) -> None:
    for description in nested(name):
        check_classes(description, "model.yaml")


@pytest.mark.parametrize("name", REFUSED)
def test_all_else_is_refused_by_name(importable: Path, name: str) -> None:
    for description in [*nested(name), {name: 1}]:
        with pytest.raises(UserError) as caught:
            check_classes(description, "model.yaml")
        message = str(caught.value)
        assert message.startswith("model.yaml must name networks and layers of videonorm, torch.nn, torchv")
        assert f"and {name!r} {REFUSED[name]}; --trust" in message
    assert not importable.exists() and "somebodys" not in sys.modules


def test_a_card_and_a_checkpoint(checkpoint: Checkpoint, importable: Path, tmp_path: Path) -> None:
    """Refused, with nothing imported; with trust both are read, and export keeps what it was given."""
    path = checkpoint("gn")
    content = torch.load(path, weights_only=True)
    content["videonorm"]["backbone"]["class_path"] = "somebodys.Net"
    torch.save(content, path)
    with pytest.raises(UserError, match=r"ckpt \(.*gn.ckpt\) must name .* and 'somebodys.Net' is in none"):
        export_checkpoint(path, tmp_path / "artifact")
    assert not importable.exists() and not (tmp_path / "artifact").exists()
    export_checkpoint(path, tmp_path / "artifact", trust=True)
    assert importable.exists()

    importable.unlink()
    del sys.modules["somebodys"]
    with pytest.raises(UserError, match=r"model.yaml must name .* and 'somebodys.Net' is in none of them"):
        load_artifact(tmp_path / "artifact", CPU)
    assert not importable.exists()
    assert type(load_artifact(tmp_path / "artifact", CPU, trust=True).network).__name__ == "Net"
    card = yaml.safe_load((tmp_path / "artifact" / "model.yaml").read_text())
    assert card["backbone"]["class_path"] == "somebodys.Net"

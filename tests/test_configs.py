"""Every YAML in configs/ opens with the command that runs it: it is parsed here, and its objects are made."""

import shlex
from pathlib import Path

import pytest
import torch
from jsonargparse import ActionConfigFile
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

from videonorm.data import Manifests, MotionClips
from videonorm.training import LastCheckpoint, Schedule, VideoClassifier, VideoDataModule

ROOT = Path(__file__).parents[1]
FILES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "configs").rglob("*.yaml")
    if path.parent.name not in ("sweep", "study")
)


@pytest.fixture(scope="module")
def parser():
    """The options of `videonorm fit`."""
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_argument("-c", "--config", action=ActionConfigFile)
    parser.add_argument("--seed_everything", type=int)
    for cls, key in [
        (Trainer, "trainer"),
        (VideoClassifier, "model"),
        (VideoDataModule, "data"),
        (LastCheckpoint, "last_checkpoint"),
    ]:
        parser.add_lightning_class_args(cls, key)
    return parser


@pytest.mark.parametrize("file", FILES)
def test_opens_with_the_command_that_runs_it(parser, file, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split((ROOT / file).read_text().splitlines()[0])
    assert words[:3] == ["#", "videonorm", "fit"] and file in words

    config = parser.parse_args(words[3:])
    with torch.device("meta"):
        objects = parser.instantiate_classes(config)

    assert isinstance(objects.model.backbone, nn.Module)
    assert objects.model.scheduler is None or isinstance(objects.model.scheduler, Schedule)
    assert isinstance(objects.data.source, Manifests | MotionClips)
    assert objects.model.num_classes > 1

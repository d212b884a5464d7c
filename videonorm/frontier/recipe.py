"""What a recipe of `videonorm fit` trains, as far as memory depends on it."""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from torch import nn
from torch.optim import Optimizer

from videonorm.errors import UserError
from videonorm.evaluation.checkpoint import build_backbone

# Of trainer.precision, as Lightning reads them.
ALIASES = {"None": "32-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}


@dataclass(frozen=True)
class Recipe:
    """A recipe with its overlays, resolved.

    Attributes:
        backbone, optimizer: {"class_path", "init_args"}.
        precision: a name of Lightning's.
        accumulate: micro-batches of an optimizer step.
        num_frames, crop_size, batch_size: of its clips; a grid has others.
    """

    backbone: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    precision: str
    accumulate: int
    num_frames: int
    crop_size: int
    batch_size: int


def read_recipe(configs: Sequence[Path]) -> Recipe:
    """Resolve a recipe and its overlays as `videonorm fit` does, by asking it.

    Raises:
        UserError: what `fit` says of a mistake in them.
    """
    options = [part for config in configs for part in ("-c", str(config))]
    command = [sys.executable, "-m", "videonorm", "fit", *options, "--print_config"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise UserError(last.removeprefix("videonorm: ") or f"fit ended with exit code {done.returncode}")
    settings = yaml.safe_load(done.stdout)
    model, data, trainer = settings["model"], settings["data"], settings["trainer"]
    precision = str(trainer["precision"])
    return Recipe(
        backbone=model["backbone"],
        optimizer=model["optimizer"],
        precision=ALIASES.get(precision, precision),
        accumulate=trainer["accumulate_grad_batches"],
        num_frames=data["num_frames"],
        crop_size=data["crop_size"],
        batch_size=data["batch_size"],
    )


def build(recipe: Recipe) -> tuple[Callable[[], nn.Module], Callable[[Iterable[nn.Parameter]], Optimizer]]:
    """What makes the network, and what makes the optimizer of its parameters."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--optimizer", type=Callable[[Iterable[nn.Parameter]], Optimizer])
    optimizer = parser.parse_object({"optimizer": copy.deepcopy(dict(recipe.optimizer))})
    # The recipe is a person's own: it may name any class.
    return (
        lambda: build_backbone(recipe.backbone, "the recipe", trust=True),
        parser.instantiate(optimizer).optimizer,
    )

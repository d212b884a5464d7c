"""What a recipe of `videonorm fit` trains, as far as memory depends on it."""

import copy
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
from videonorm.frontier.fitting import fit
from videonorm.layers import accumulated_batch_norms

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
        settings: all that `fit` takes, resolved.
    """

    backbone: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    precision: str
    accumulate: int
    num_frames: int
    crop_size: int
    batch_size: int
    settings: Mapping[str, Any]


def read_recipe(configs: Sequence[Path]) -> Recipe:
    """Resolve a recipe and its overlays as `videonorm fit` does, by asking it.

    Raises:
        UserError: what `fit` says of a mistake in them.
    """
    options = [part for config in configs for part in ("-c", str(config))]
    settings = yaml.safe_load(fit([*options, "--print_config"]))
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
        settings=settings,
    )


def build(recipe: Recipe) -> tuple[Callable[[], nn.Module], Callable[[Iterable[nn.Parameter]], Optimizer]]:
    """What makes the network, and what makes the optimizer of its parameters.

    Raises:
        UserError: by the first, as a step of accumulated batch norm is other than one of micro-batches alone.
    """
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--optimizer", type=Callable[[Iterable[nn.Parameter]], Optimizer])
    optimizer = parser.parse_object({"optimizer": copy.deepcopy(dict(recipe.optimizer))})

    def network() -> nn.Module:
        # The recipe is a person's own: it may name any class.
        made = build_backbone(recipe.backbone, "the recipe", trust=True)
        if recipe.accumulate > 1 and accumulated_batch_norms(made):
            raise UserError(
                f"trainer.accumulate_grad_batches ({recipe.accumulate}) must be 1 for AccumulatedBatchNorm3d "
                "here: the passes that it makes of each micro-batch are not traced"
            )
        return made

    return network, parser.instantiate(optimizer).optimizer

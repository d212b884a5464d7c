"""`videonorm fit`, asked: to resolve a recipe, to feed its training clips to a network that learns nothing.

So whatever `fit` does on the way from a manifest to a batch on the device is done here, by itself.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from videonorm.errors import UserError
from videonorm.files import write
from videonorm.processes import started

# Of the trainer, where all that is asked of it is to hand out clips.
FEEDING = {
    **{"devices": 1, "num_nodes": 1, "strategy": "auto", "accumulate_grad_batches": 1, "callbacks": None},
    **{"max_epochs": -1, "max_steps": -1, "min_epochs": None, "min_steps": None, "max_time": None},
    **{
        "limit_train_batches": None,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "overfit_batches": 0.0,
    },
    **{"val_check_interval": None, "fast_dev_run": False, "gradient_clip_val": None, "profiler": None},
    **{"logger": False, "enable_progress_bar": False, "enable_model_summary": False},
}
# Of the model, what is said of a network that is not there.
OF_THE_BACKBONE = dict.fromkeys(("freeze", "lr_scales", "weights", "new"))


def fit(options: Sequence[str]) -> str:
    """Run `videonorm fit` with options, in a process of its own; what it prints. Its warnings are passed on.

    Raises:
        UserError: what it says of a mistake, or last, if it ends in another way.
    """
    command = [sys.executable, "-m", "videonorm", "fit", *options]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        printed, said = process.communicate()
    lines = said.strip().splitlines()
    if process.returncode:
        last = lines[-1].removeprefix("videonorm: ") if lines else ""
        raise UserError(last or f"fit ended with exit code {process.returncode}")
    for line in lines:
        if line.startswith("videonorm: "):
            print(line, file=sys.stderr, flush=True)
    return printed


def feed(
    settings: Mapping[str, Any],
    network: Mapping[str, Any],
    folder: Path,
    *,
    data: Mapping[str, Any],
    trainer: Mapping[str, Any],
) -> None:
    """Have `fit` feed the training clips of a recipe to a network in place of its own.

    Args:
        settings: the recipe, resolved.
        network: {"class_path", "init_args"}.
        folder: an existing one, for its run folder ``run``.
        data, trainer: settings in place of the recipe's; of the trainer one that ends it.

    Raises:
        UserError: what `fit` says of a mistake, such as videos that are not there.
    """
    feeding = {
        **settings,
        "model": {**settings["model"], **OF_THE_BACKBONE, "backbone": network, "scheduler": None},
        "data": {**settings["data"], **data},
        "trainer": {**settings["trainer"], **FEEDING, "default_root_dir": str(folder / "run"), **trainer},
        "ckpt_path": None,
    }
    config = folder / "feeding.yaml"
    write(config, yaml.safe_dump(feeding))
    fit(["-c", str(config)])

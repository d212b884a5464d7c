"""Weights into a network: all of them, or those of the parts that were not said to be new."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from videonorm.models.weights.layouts import layout_of
from videonorm.models.weights.reading import read_state_dict
from videonorm.models.weights.text import shortened


def load_foreign(model: nn.Module, weights: str | Path | Mapping[str, Tensor]) -> None:
    """Load weights of a known layout into a network.

    Args:
        weights: a file (see `read_state_dict`) or a state dict.

    Raises:
        ValueError: the weights do not fit the model; the message names what is missing, left over or of
            another shape. The model is as it was.
        UserError: the file cannot be read.
    """
    state_dict = read_state_dict(weights) if isinstance(weights, str | Path) else weights
    expected = model.state_dict()
    ours = dict(state_dict)
    if not ours.keys() & expected.keys():
        ours = layout_of(state_dict, "weights").translate(state_dict, model)
    misfits = {
        "missing": [name for name in expected if name not in ours],
        "left over": [name for name in ours if name not in expected],
        "of another shape": [
            f"{name} {tuple(ours[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in ours
            if name in expected and ours[name].shape != expected[name].shape
        ],
    }
    if any(misfits.values()):
        found = "; ".join(f"{what}: {shortened(names)}" for what, names in misfits.items() if names)
        raise ValueError(f"weights ({len(ours)} tensors) must fit {type(model).__name__}, {found}")
    model.load_state_dict(ours)

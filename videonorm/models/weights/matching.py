"""Weights into a network: all of them, or those of the parts that were not said to be new."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from videonorm.errors import UserError
from videonorm.layers import SubBatchNorm3d, is_norm
from videonorm.messages import did_you_mean, some_of
from videonorm.models.weights.layouts import LAYOUTS, layout_of
from videonorm.models.weights.reading import read_weights

OWN = "the model's own names"


@dataclass(frozen=True)
class Report:
    """What became of some weights.

    Attributes:
        source: where they came from.
        layout: whose names they had.
        tensors, parameters: how many were loaded; buffers, such as running statistics, are no parameters.
        new: tensors of the model that stay as they were.
        left_over: tensors that went nowhere.
    """

    source: str
    layout: str
    tensors: int
    parameters: int
    new: Sequence[str]
    left_over: Sequence[str]

    def __str__(self) -> str:
        new = some_of(self.new) or "nothing"
        left_over = some_of(self.left_over) or "nothing"
        mapped = f"{self.tensors} tensors mapped ({self.parameters:,} parameters)"
        return f"{self.source}, {self.layout}: {mapped}; new: {new}; left over: {left_over}"


def load_foreign(
    model: nn.Module,
    weights: str | Path | Mapping[str, Tensor],
    new: Collection[str] = (),
    *,
    name: str = "weights",
    option: str = "new",
) -> Report:
    """Load weights of a known layout, or with the model's own names, into a network.

    Args:
        weights: a file (see `read_weights`) or a state dict.
        new: parts of the model that stay as they are: "head" (its last linear layer), "norms", or the
            beginning of names, such as "stem" or "stages.3".
        name: what `weights` is called in messages.
        option: what `new` is called there.

    Raises:
        UserError: the file cannot be read, or weights and model do not fit in another part; the message
            names what is missing, left over or of another shape. The model is as it was.
    """
    source, is_ours = name, False
    if isinstance(weights, str | Path):
        source = f"{name} ({weights})"
        weights, is_ours = read_weights(weights, name)
    expected = model.state_dict()
    has_own_names = bool(weights.keys() & expected.keys())
    # A network of others that we trained has their names, and not what else a layout knows, such as eps.
    layout = None if is_ours and has_own_names else layout_of(weights)
    if not layout and not has_own_names:
        known = ", ".join(layout.TITLE for layout in LAYOUTS)
        raise UserError(
            f"{source} ({some_of(list(weights))}) must have the names of {known}, or the model's own"
        )
    ours = _for_splits(layout.translate(weights, model) if layout else weights, model)
    starts = tuple(f"{start}." for part in new for start in _starts(model, part, option))
    used = {name: tensor for name, tensor in ours.items() if not f"{name}.".startswith(starts)}
    _check_fit(model, used, starts, source, option)
    loaded = {name: used[name] for name in expected if name in used}
    model.load_state_dict({**expected, **loaded})
    parameters = dict(model.named_parameters())
    return Report(
        source,
        layout.TITLE if layout else OWN,
        len(loaded),
        sum(parameters[name].numel() for name in loaded if name in parameters),
        [name for name in expected if name not in loaded and not _is_counter(name)],
        [name for name in ours if name not in loaded and not _is_counter(name)],
    )


def _for_splits(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """What the splits of a Sub-BN start with where the weights know nothing of so many: all with the same.

    Their union has then the running statistics that the weights have. Other norms have no splits.
    """
    expected = model.state_dict()
    of_splits = ("split_mean", "split_var")
    ours = {name: of for name, of in weights.items() if name in expected or not name.endswith(of_splits)}
    for name, module in model.named_modules():
        if isinstance(module, SubBatchNorm3d):
            for statistic in ("mean", "var"):
                split, running = f"{name}.split_{statistic}", ours.get(f"{name}.running_{statistic}")
                wanted = expected[split].shape
                if running is not None and (split not in ours or ours[split].shape != wanted):
                    ours[split] = running.expand(wanted).clone()
    return ours


def _starts(model: nn.Module, part: str, option: str) -> list[str]:
    """The names that the tensors of a part of the model begin with."""
    modules = {name: module for name, module in model.named_modules() if name}
    if part == "norms":
        return [name for name, module in modules.items() if is_norm(module)]
    if part == "head" and part not in modules:
        linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
        return linear[-1:]
    if part not in modules and part not in model.state_dict():
        known = ["head", "norms", *modules]
        raise UserError(
            f"{option} ({part}) must be head, norms or a part of the model, such as "
            f"{next(iter(modules))}{did_you_mean(part, known)}"
        )
    return [part]


def _is_counter(name: str) -> bool:
    """Of the batches of a batch norm: files of torch before 0.4.1 have none, and nothing depends on it."""
    return name.endswith("num_batches_tracked")


def _check_fit(
    model: nn.Module, used: Mapping[str, Tensor], starts: tuple[str, ...], source: str, option: str
) -> None:
    expected = {name: of for name, of in model.state_dict().items() if not f"{name}.".startswith(starts)}
    others = [name for name in used if name in expected and used[name].shape != expected[name].shape]
    misfits = {
        "missing": [name for name in expected if name not in used and not _is_counter(name)],
        "left over": [name for name in used if name not in expected and not _is_counter(name)],
        "of another shape": [
            f"{name} {tuple(used[name].shape)} instead of {tuple(expected[name].shape)}" for name in others
        ],
    }
    if not any(misfits.values()):
        return
    head = next(iter(_starts(model, "head", option)), "")
    weight = f"{head}.weight"
    classes = ""
    if weight in others and len(used[weight]) != len(expected[weight]):
        classes = (
            f"have the model's {len(expected[weight])} classes, and has {len(used[weight])}: "
            f"{option} head starts another head"
        )
    all_names = not misfits["missing"] and not misfits["left over"]
    if classes and all_names and all(name.startswith(f"{head}.") for name in others):
        raise UserError(f"{source} must {classes}")
    found = "; ".join(f"{what}: {some_of(names)}" for what, names in misfits.items() if names)
    raise UserError(
        f"{source} must fit {type(model).__name__}, {found}" + (f"; it must {classes}" if classes else "")
    )

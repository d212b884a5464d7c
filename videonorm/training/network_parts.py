"""Parts of a network, by role or name: to freeze them, or to train them at a learning rate of their own."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from videonorm.errors import UserError
from videonorm.layers import norm_layers
from videonorm.messages import did_you_mean

NORMS = "norms"


def part(model: nn.Module, name: str, option: str) -> list[nn.Module]:
    """The modules that a name stands for: ``norms``, all that normalize, or a submodule such as ``stages.0``.

    Raises:
        UserError: the network has no such part. ``option`` is who asks.
    """
    found = list(norm_layers(model)) if name == NORMS else []
    if not found:
        modules = {at: module for at, module in model.named_modules() if at}
        if name not in modules:
            near = [NORMS, *(at for at in modules if at.count(".") < 2)]
            raise UserError(
                f"{option} ({name}) must be {NORMS} or a submodule of {type(model).__name__}, such as "
                f"{', '.join(list(dict(model.named_children()))[:4])}{did_you_mean(name, near)}"
            )
        found = [modules[name]]
    return found


def freeze(model: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    """Take parts out of training; returns what is to stay in eval mode while the rest trains.

    Their parameters have no gradients, and their batch norms neither take statistics of a batch nor keep
    account of them: they are frozen batch norms.

    Raises:
        UserError: the network has no such part, or would have nothing left to train.
    """
    frozen = [module for name in names for module in part(model, name, "freeze")]
    for module in frozen:
        module.requires_grad_(False)
    if frozen and not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"freeze ({', '.join(names)}) must leave something to train")
    return frozen


def parameter_groups(
    model: nn.Module, norm_weight_decay: bool, lr_scales: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """The optimizer's parameter groups: with ``norm_weight_decay`` one, else a second one without decay.

    The second holds every parameter of a norm layer, whatever its class, and every vector (biases, gains).
    Parts with a learning rate of their own come in groups of theirs, which have it as ``lr_scale``; of parts
    within one another the later one in ``lr_scales`` counts.

    Raises:
        UserError: the network has no such part.
    """
    scale_of: dict[int, float] = {}
    for name, scale in (lr_scales or {}).items():
        for module in part(model, name, "lr_scales"):
            scale_of |= {id(parameter): scale for parameter in module.parameters()}
    of_norms = {id(parameter) for norm in norm_layers(model) for parameter in norm.parameters()}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        kept = not norm_weight_decay and (id(parameter) in of_norms or parameter.ndim <= 1)
        groups.setdefault((scale_of.get(id(parameter), 1.0), kept), []).append(parameter)
    return [
        {
            "params": groups[scale, kept],
            **({"weight_decay": 0.0} if kept else {}),
            **({"lr_scale": scale} if scale != 1 else {}),
        }
        for scale, kept in sorted(groups, key=lambda key: (key[0] != 1, *key))
    ]

"""Why a module cannot be swapped: what it does is not all in its class, its options and its tensors.

Such a module stays as it is, and `convert` names it with the reason.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from videonorm.layers import ReparametrizedConv3d

VOLUME_NORMS = (nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm3d, nn.GroupNorm)
PLAIN = frozenset(vars(nn.Module()))  # what every module has: its tensors, its submodules, its hooks
HOOKS = tuple(name for name in PLAIN if name.endswith("_hooks"))


class StaysError(Exception):
    """The module stays what it is; the message is the reason."""


def check_movable(module: nn.Module) -> None:
    """Raise a StaysError if another module with the tensors of this one would do something else."""
    if is_scripted(module):
        raise StaysError("it is compiled by TorchScript")
    if is_quantized(module):
        raise StaysError("it is quantized")
    if any(isinstance(part, LazyModuleMixin) for part in module.modules()):
        raise StaysError("it is lazy and has seen no clip yet")
    for part in module.modules():
        for name in ("weight", "bias", "gain"):
            if _is_computed(part, name):
                raise StaysError(f"its {name} is parametrized")
    if _has_own_forward(module):
        raise StaysError("its forward is its own")
    if any(getattr(part, hooks) for part in module.modules() for hooks in HOOKS):
        raise StaysError("it has hooks")
    if getattr(module, "_compiled_call_impl", None) is not None:
        raise StaysError("it is compiled")


def is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def is_quantized(module: nn.Module) -> bool:
    return ".quantized." in type(module).__module__


def holders(model: nn.Module) -> dict[nn.Module, str]:
    """Modules that an attribute holds beside the submodules, a list for example, and the attribute's name."""
    registered = set(model.modules())
    held: dict[nn.Module, str] = {}
    for name, owner in model.named_modules():
        for attribute, value in vars(owner).items():
            if attribute in PLAIN:
                continue
            for module in _modules_in(value):
                # A registered container gets the new modules itself.
                for part in [module] if module in registered else module.modules():
                    held[part] = f"{name}.{attribute}" if name else attribute
    return held


def shared_tensors(model: nn.Module) -> set[int]:
    """The ids of those parameters and buffers that belong to more than one module."""
    owners = Counter(
        id(tensor)
        for module in model.modules()
        for tensor in {**module._parameters, **module._buffers}.values()
        if tensor is not None
    )
    return {tensor for tensor, count in owners.items() if count > 1}


def _modules_in(value: Any) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, MethodType):
        yield from _modules_in(value.__self__)
    elif isinstance(value, Mapping | list | tuple | set | frozenset):
        for member in value.values() if isinstance(value, Mapping) else value:
            yield from _modules_in(member)


def _is_computed(module: nn.Module, name: str) -> bool:
    """Whether the tensor is made of others before each forward: by a parametrization, or by a hook."""
    if is_parametrized(module, name):
        return True
    if isinstance(vars(module).get(name), Tensor):  # and neither a parameter nor a buffer
        return True
    return name == "weight" and isinstance(module, nn.Conv3d) and "weight" not in module._parameters


def _has_own_forward(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv3d):
        bases: tuple[type[nn.Module], ...] = (ReparametrizedConv3d, nn.Conv3d)
    elif isinstance(module, VOLUME_NORMS) and not getattr(module, "is_norm", False):
        bases = VOLUME_NORMS
    else:
        bases = (type(module),)
    base = next(base for base in bases if isinstance(module, base))
    return any(
        name in vars(module) or getattr(type(module), name, None) is not getattr(base, name, None)
        for name in ("forward", "_conv_forward")
    )

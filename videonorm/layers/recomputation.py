"""Frames for free: outputs of norms that are not kept for backward, but made again when it asks for them.

Autograd's saved-tensor hooks see every tensor that an operation is about to keep. One that is the output of a
norm is replaced there by its recipe: the input and the statistics, which the norm keeps in any case.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from videonorm.layers.saved_tensor_hooks import Hooks, innermost_hooks

Packed = Callable[[], Tensor]
"""What the graph holds in place of a tensor: called, it gives the tensor."""


@contextmanager
def recompute_norms() -> Iterator[None]:
    """In this context, around a model's forward, the outputs of norms are made again in backward, not kept.

    It holds for GroupNorm3d, LayerNorm3d and InstanceNorm3d without a residual, with or without a ReLU: in
    backward each consumer of y has it made of the norm's x and statistics. After a residual y stays, as the
    ReLU's mask. MaxPool3d keeps its input alone, without the int64 indices, four times the bytes of a bf16
    output.

    The trade: the bytes of each y for one more read of x and write of y, those of the indices for the pool's
    forward once more. The gradients are the same, to the bit where the device's own operations repeat
    themselves to the bit.

    Tensors that are kept are guarded as ever: one changed in place before backward is an error there. Inside
    other saved-tensor hooks (``save_on_cpu``, ``checkpoint``) these get what is kept here. Without gradients
    nothing is kept and nothing changes; neither does it under torch.compile and torch.export, where the
    compiler decides what is made again.
    """
    if torch.compiler.is_compiling():
        yield
        return
    recipes = _Recipes(innermost_hooks())
    try:
        with torch.autograd.graph.saved_tensors_hooks(recipes.pack, operator.call):
            yield
    finally:
        recipes.clear()


def is_recomputing() -> bool:
    """Whether the next tensor that autograd keeps goes through `recompute_norms`."""
    return _active_recipes() is not None


def offer_recipe(y: Tensor, function: Callable[..., Tensor], *inputs: Tensor | None) -> None:
    """Tell the context, if there is one, that ``function(*inputs)`` makes y again.

    Only for inputs that are kept for backward in any case: the recipe holds them.
    """
    recipes = _active_recipes()
    if recipes is not None and y.requires_grad:
        recipes.add(y, function, inputs)


def require_recomputable_norm(model: nn.Module) -> None:
    """Raise a ValueError if there is nothing in `model` that `recompute_norms` could recompute."""
    norms = [module for module in model.modules() if getattr(module, "is_norm", False)]
    if not any(getattr(norm, "is_recomputable", False) for norm in norms):
        names = ", ".join(sorted({type(norm).__name__ for norm in norms}))
        raise ValueError(
            f"recompute_norms (True) needs a norm whose output can be computed again, such as GroupNorm3d,"
            f" but the model's norms are {names}"
        )


class _Recipe(NamedTuple):
    y: tuple[object, ...]
    function: Callable[..., Tensor]
    inputs: tuple[Tensor | None, ...]


class _Recipes:
    """The recipes of one context, by the memory of what they make. Weak references: y itself is not held, and
    no other tensor can get its address while it has an entry."""

    def __init__(self, outer: Hooks | None) -> None:
        self._outer = outer
        self._by_storage: dict[StorageWeakRef, _Recipe] = {}

    def add(self, y: Tensor, function: Callable[..., Tensor], inputs: tuple[Tensor | None, ...]) -> None:
        # The recipe of a y that is gone would keep its inputs, which may be gone for all others.
        self._by_storage = {kept: recipe for kept, recipe in self._by_storage.items() if not _is_gone(kept)}
        detached = tuple(None if tensor is None else tensor.detach() for tensor in inputs)
        self._by_storage[_storage(y)] = _Recipe(_identity(y), function, detached)

    def pack(self, tensor: Tensor) -> Packed:
        recipe = None
        if self._by_storage and tensor.layout is torch.strided:
            recipe = self._by_storage.get(_storage(tensor))
        if recipe is not None and recipe.y == _identity(tensor):
            inputs = [None if packed is None else self.pack(packed) for packed in recipe.inputs]
            return partial(_make, recipe.function, inputs)
        if self._outer is not None:
            pack, unpack = self._outer
            return partial(unpack, pack(tensor))
        return partial(_unchanged, tensor.detach(), tensor._version)

    def clear(self) -> None:
        self._by_storage.clear()


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _is_gone(storage: StorageWeakRef) -> bool:
    return bool(storage.expired())  # type: ignore[no-untyped-call]


def _identity(tensor: Tensor) -> tuple[object, ...]:
    """What two tensors of one memory must share to be equal. An operation in place makes another version."""
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset(), tensor._version


def _make(function: Callable[..., Tensor], inputs: list[Packed | None]) -> Tensor:
    with torch.no_grad():
        return function(*(None if packed is None else packed() for packed in inputs))


def _unchanged(tensor: Tensor, version: int) -> Tensor:
    """Autograd's own check, which it leaves to the hooks where there are any."""
    if tensor._version != version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation:"
            f" [{tensor.dtype}, {list(tensor.shape)}] is at version {tensor._version}; expected version"
            f" {version} instead"
        )
    return tensor


def _active_recipes() -> _Recipes | None:
    """Those of the innermost hooks: not those around a checkpoint, which keeps nothing of what is inside."""
    if torch.compiler.is_compiling():
        return None
    hooks = innermost_hooks()
    owner = None if hooks is None else getattr(hooks[0], "__self__", None)
    return owner if isinstance(owner, _Recipes) else None

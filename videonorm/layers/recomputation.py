"""Frames for free: activations that are not kept for backward, but made again when it asks for them.

Autograd's saved-tensor hooks see every tensor that an operation is about to keep. One for which a layer has
offered a recipe, such as the output of a norm, is replaced there by it: a function and its inputs, which are
kept in any case or have recipes themselves.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from videonorm.layers.saved_tensor_hooks import Hooks, innermost_hooks

Recompute = Literal["none", "norms", "blocks", "blocks_8bit", "blocks_8bit_stochastic"]
LONGEST_CHAIN = 5
"""Recipes in a row, each an input of the next. Backward makes them all for the last, and again for others."""

Packed = Callable[[], Tensor]
"""What the graph holds in place of a tensor: called, it gives the tensor."""


@contextmanager
def recompute(what: Recompute) -> Iterator[None]:
    """In this context, around a model's forward, activations are made again in backward, not kept.

    Args:
        what: for norms that are GroupNorm3d, LayerNorm3d or InstanceNorm3d, with or without a ReLU,

            - "norms": the output of a norm without a residual is made again of its x and statistics. After
              a residual it stays, as the ReLU's mask. MaxPool3d keeps no int64 indices, four times the bytes
              of a bf16 output.
            - "blocks": after a residual too, of x and the residual, which is made again itself where it is
              such an output; what ends a chain of LONGEST_CHAIN is kept. Behind a norm, not behind a block,
              the output of MaxPool3d is made again as well.
            - "blocks_8bit": of x, which the norms keep still, 8 bits a value are kept, and masks of ReLUs and
              pools, so that gradients go where values went: see `videonorm.ops.eight_bits`. What forward
              gives is the same. The gradients have an error, below 1 % of their norm where it was measured in
              fp32 (tests/layers/test_recompute_8bit.py).
            - "blocks_8bit_stochastic": the same, rounded up or down at random, with an error of mean 0.
            - "none": everything is kept.

    The gradients of "norms" and "blocks" are the same as without, to the bit where the device's own
    operations repeat themselves to the bit. The price of an output is to read what it is made of and to write
    it. What a chain makes on the way is not held: that would be the peak of memory (kernels/NOTES.md).

    Tensors that are kept are guarded as ever: one changed in place before backward is an error there. Inside
    other saved-tensor hooks (``save_on_cpu``, ``checkpoint``) these get what is kept here. Without gradients
    nothing is kept and nothing changes; neither does it under torch.compile and torch.export, where the
    compiler decides what is made again.
    """
    check_recompute(what)
    if what == "none" or torch.compiler.is_compiling():
        yield
        return
    recomputation = Recomputation(what, innermost_hooks())
    try:
        with torch.autograd.graph.saved_tensors_hooks(recomputation.pack, operator.call):
            yield
    finally:
        recomputation.clear()


def check_recompute(what: str) -> None:
    """Raise a ValueError if it is none of `Recompute`."""
    if what not in get_args(Recompute):
        raise ValueError(f"recompute ({what}) must be one of {', '.join(get_args(Recompute))}")


def require_recomputable_norm(model: nn.Module, what: Recompute) -> None:
    """Raise a ValueError if there is nothing in `model` that `recompute` could make again."""
    check_recompute(what)
    norms = [module for module in model.modules() if getattr(module, "is_norm", False)]
    if what != "none" and not any(getattr(norm, "is_recomputable", False) for norm in norms):
        names = ", ".join(sorted({type(norm).__name__ for norm in norms}))
        raise ValueError(
            f"recompute ({what}) needs a norm whose output can be computed again, such as GroupNorm3d,"
            f" but the model's norms are {names}"
        )


class Recomputation:
    """What one context makes again.

    Attributes:
        blocks: outputs after a residual, and of pools, are made again too.
        in_8_bits: what is kept for that is kept in 8 bits.
        stochastic: and rounded at random.
    """

    def __init__(self, what: Recompute, outer: Hooks | None) -> None:
        self.blocks = what != "norms"
        self.in_8_bits = what.startswith("blocks_8bit")
        self.stochastic = what.endswith("stochastic")
        self._outer = outer
        # By the storage of what they make. A weak reference does not hold its memory, but keeps others from
        # getting its number.
        self._recipes: dict[int, tuple[StorageWeakRef, tuple[object, ...], _Recipe]] = {}

    def offer(
        self,
        y: Tensor,
        function: Callable[..., Tensor],
        *inputs: Tensor | None,
        longest: int = LONGEST_CHAIN,
    ) -> None:
        """Have y made by ``function(*inputs)`` where it would be kept from now on.

        Only for inputs that are kept for backward in any case, or have recipes: this recipe holds them.

        Args:
            longest: behind a chain of that length y is kept still.
        """
        # One whose y is gone would keep its inputs, which may be gone for all others.
        self._recipes = {key: entry for key, entry in self._recipes.items() if not _is_gone(entry[0])}
        recipes = [None if tensor is None else self._recipe(tensor) for tensor in inputs]
        length = 1 + max(0 if recipe is None else recipe.length for recipe in recipes)
        if length > longest:
            return
        ingredients = [
            None if tensor is None else self._keep(tensor) if recipe is None else recipe.make
            for tensor, recipe in zip(inputs, recipes, strict=True)
        ]
        recipe = _Recipe(function, ingredients, length)
        storage = StorageWeakRef(y.untyped_storage())  # type: ignore[no-untyped-call]
        self._recipes[_number(y)] = storage, _identity(y), recipe

    def has_recipe(self, tensor: Tensor) -> bool:
        """Whether the tensor is made again."""
        return self._recipe(tensor) is not None

    def pack(self, tensor: Tensor) -> Packed:
        recipe = self._recipe(tensor)
        if recipe is not None:
            recipe.askers += 1
            return recipe
        return self._keep(tensor)

    def clear(self) -> None:
        self._recipes.clear()

    def _recipe(self, tensor: Tensor) -> "_Recipe | None":
        if not self._recipes or tensor.layout is not torch.strided:
            return None
        entry = self._recipes.get(_number(tensor))
        if entry is None:  # as for most of what autograd keeps
            return None
        _, identity, recipe = entry
        return recipe if identity == _identity(tensor) else None

    def _keep(self, tensor: Tensor) -> Packed:
        if self._outer is None:
            return partial(_unchanged, tensor.detach(), tensor._version)
        pack, unpack = self._outer
        return cache(partial(unpack, pack(tensor)))  # a chain may ask again, and a checkpoint gives once


class _Recipe:
    """Makes a tensor, when the first operation asks for it, and holds it until the last one has.

    Attributes:
        askers: how many operations hold this in place of the tensor.
        length: of the chain of recipes that ends here.
    """

    def __init__(
        self, function: Callable[..., Tensor], ingredients: list[Packed | None], length: int
    ) -> None:
        self.askers = 0
        self.length = length
        self._function, self._ingredients = function, ingredients
        self._made: Tensor | None = None
        self._to_ask = 0

    def __call__(self) -> Tensor:
        if self._made is None:
            self._to_ask = self.askers
        made = self.make()
        self._to_ask -= 1
        self._made = made if self._to_ask > 0 else None
        return made

    def make(self) -> Tensor:
        """The tensor, for another recipe, which needs it for a moment."""
        if self._made is not None:
            return self._made
        with torch.no_grad():
            return self._function(*(None if packed is None else packed() for packed in self._ingredients))


def _number(tensor: Tensor) -> int:
    """Of its storage, as in a StorageWeakRef, which takes five times as long to be made."""
    number: int = tensor.untyped_storage()._cdata
    return number


def _is_gone(storage: StorageWeakRef) -> bool:
    return bool(storage.expired())  # type: ignore[no-untyped-call]


def _identity(tensor: Tensor) -> tuple[object, ...]:
    """What two tensors of one memory must share to be equal. An operation in place makes another version."""
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset(), tensor._version


def _unchanged(tensor: Tensor, version: int) -> Tensor:
    """Autograd's own check, which it leaves to the hooks where there are any."""
    if tensor._version != version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation:"
            f" [{tensor.dtype}, {list(tensor.shape)}] is at version {tensor._version}; expected version"
            f" {version} instead"
        )
    return tensor


def active_recomputation() -> Recomputation | None:
    """That of the innermost hooks: not that around a checkpoint, which keeps nothing of what is inside."""
    if torch.compiler.is_compiling():
        return None
    hooks = innermost_hooks()
    owner = None if hooks is None else getattr(hooks[0], "__self__", None)
    return owner if isinstance(owner, Recomputation) else None

"""The base of convolutions whose filters are a function of the stored weight."""

from collections.abc import Iterable
from threading import get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from videonorm.layers.leaf import is_traced, leaf
from videonorm.layers.parameter import parameter
from videonorm.layers.saved_tensor_hooks import innermost_hooks


class WeightAtHand(NamedTuple):
    """An effective weight that was computed for the forward that runs now, and what must be as it was."""

    weight: Tensor
    sources: tuple[Tensor, Tensor | None]
    """The weight and the gain that it is made of."""
    states: list[object]
    """What they held."""
    surroundings: tuple[object, ...]


class ReparametrizedConv3d(nn.Conv3d):
    """Conv3d that convolves with ``effective_weight()`` in place of ``weight``. Arguments as in nn.Conv3d."""

    def __init__(self, *conv_args: Any, **conv_kwargs: Any) -> None:
        super().__init__(*conv_args, **conv_kwargs)
        self._weights_at_hand: dict[object, WeightAtHand] = {}  # by thread

    def effective_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight that the convolution uses: an nn.Conv3d with it (and this bias) computes the same.

        Args:
            dtype: of the result; that of ``weight`` if None.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if is_traced(x):
            return leaf(self, x)
        dtype = autocast_dtype(x)
        weight = self.weight_at_hand(dtype)
        if weight is None:
            weight = self.effective_weight(dtype)
        y: Tensor = self._conv_forward(x, weight, parameter(self, "bias"))
        return y

    def weight_at_hand(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """What is kept at hand, if it is what ``effective_weight(dtype)`` would be here and now."""
        if not self._weights_at_hand:
            return None
        compiling = torch.compiler.is_compiling()  # asked once: all of this is done at every step
        at_hand = self._weights_at_hand.get(None if compiling else get_ident())
        if at_hand is None or at_hand.weight.dtype != (dtype or self.weight.dtype):
            return None
        weight, (its_weight, its_gain), states, surroundings = at_hand
        sources = own_weight, own_gain = self._sources()
        same = (
            its_weight is own_weight
            and its_gain is own_gain
            and states == _states(sources, compiling)
            and surroundings == _surroundings(compiling)
        )
        return weight if same else None

    def forget(self) -> None:
        self._weights_at_hand.pop(thread(), None)

    def _sources(self) -> tuple[Tensor, Tensor | None]:
        return parameter(self, "weight"), getattr(self, "gain", None)

    def __getstate__(self) -> dict[str, Any]:
        # A copy, which another thread may make at any time, is in no forward.
        return {**super().__getstate__(), "_weights_at_hand": {}}  # type: ignore[no-untyped-call]


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast, where it is on for the device of x, makes a convolution compute in."""
    kind = "cuda" if x.is_cuda else "cpu" if x.is_cpu else x.device.type  # which makes a string each time
    if kind != "meta" and torch.is_autocast_enabled(kind):  # there is none for meta tensors
        return torch.get_autocast_dtype(kind)
    return None


def keep_at_hand(convs: Iterable[ReparametrizedConv3d], weights: Iterable[Tensor]) -> None:
    """Offer the next forward of each convolution in this thread its effective weight, until `forget`."""
    compiling, here = torch.compiler.is_compiling(), thread()
    surroundings = _surroundings(compiling)
    for conv, weight in zip(convs, weights, strict=True):
        sources = conv._sources()
        conv._weights_at_hand[here] = WeightAtHand(weight, sources, _states(sources, compiling), surroundings)


def _states(sources: tuple[Tensor, Tensor | None], compiling: bool) -> list[object]:
    """Whether gradients are wanted of the sources, and how often they have been changed in place."""
    found: list[object] = []
    for source in sources:
        if source is not None:
            found.append(source.requires_grad)
            # A compiler knows changes in place as such; a tensor of inference mode counts no versions.
            if not (compiling or source.is_inference()):
                found.append(source._version)
    return found


def _surroundings(compiling: bool) -> tuple[object, ...]:
    """What a tensor depends on besides its sources: grad mode, and place.

    The saved-tensor hooks in force tell the inside of an activation checkpoint from its outside: what a
    checkpoint computes in backward, when no group runs, it must have computed in forward too.
    """
    if compiling:  # a compiler knows checkpoints as such
        return (torch.is_grad_enabled(),)
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), innermost_hooks()


def thread() -> int | None:
    """The one that runs this."""
    return None if torch.compiler.is_compiling() else get_ident()

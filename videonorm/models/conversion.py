"""Swap the norms and the convolutions of any network, in place.

A swap of norms does not keep the function (BatchNorm in evaluation is an affine map, GroupNorm is not); it
keeps what was learnt and can be kept: gamma, beta, the weights of the convolutions.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from videonorm.layers import (
    BatchChannelNorm3d,
    NoNorm,
    ReparametrizedConv3d,
    SubBatchNorm3d,
    WeightNormConv3d,
    group_weight_standardization,
)
from videonorm.models.conv_norm import ConvFactory, NormFactory

VOLUME_NORMS = (nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm3d, nn.GroupNorm)
OTHER_NORMS = (_BatchNorm, _InstanceNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Change:
    """A module that was swapped, and which of its tensors moved over and which did not, by name."""

    name: str
    before: str
    after: str
    kept: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def summary(self) -> str:
        kept = f", keeps {' '.join(self.kept)}" if self.kept else ""
        dropped = f", drops {' '.join(self.dropped)}" if self.dropped else ""
        return f"{self.before} -> {self.after.partition('(')[0]}{kept}{dropped}"


@dataclass(frozen=True)
class Left:
    """A norm or convolution that was asked for and stays what it was."""

    name: str
    module: str
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """What `convert` did: a row for each module in the order of the network, and `str()` of it to read."""

    changed: list[Change] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def __str__(self) -> str:
        summaries = Counter(change.summary for change in self.changed)
        lines = [f"{count} x {summary}" for summary, count in summaries.items()]
        lines += [f"  {change.name}: {change.before} -> {change.after}" for change in self.changed]
        lines += [f"{len(self.left)} left as they were"]
        lines += [f"  {left.name}: {left.module}, {left.reason}" for left in self.left]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Place:
    """Where a module hangs: `parent.key` is `module`, and `name` its name in the model."""

    parent: nn.Module
    key: str
    name: str
    module: nn.Module


def convert(
    model: nn.Module, norm: NormFactory | None = None, conv: ConvFactory | None = None
) -> ConversionReport:
    """Swap the norms, the convolutions or both of `model`, in place.

    The norms it swaps are those over (B, C, T, H, W): torch's BatchNorm3d, SyncBatchNorm, InstanceNorm3d,
    GroupNorm and their subclasses, and all of `videonorm.layers` but NoNorm. Parameters and buffers that old
    and new norm both have, by name and shape, move over; so do the activation of our norms, the training
    flag, and eps and momentum where both have running statistics. BatchChannelNorm3d takes part with its
    batch norm. The tensors themselves move: device, dtype and memory format stay, and an optimizer that holds
    them still does.

    The convolutions it swaps are Conv3d and its subclasses; weight and bias move over. A reparametrized one,
    such as WSConv3d, goes only where a norm follows, because only a norm makes good the scale that it loses:
    where the next module in order of registration, Identity and dropout apart, is a norm over the channels of
    the convolution. So a convolution before a pool, before another convolution or within
    squeeze-and-excitation stays, and so does a classifier, convolutional or linear. A plain convolution in
    the place of a reparametrized one gets its effective weight: the function stays the same. Somebody's
    subclass of Conv3d with a forward of its own stays where a plain one would lose what that does. No
    convolution gains or loses a bias. WSConv3d standardize together, as by `group_weight_standardization`.

    Args:
        norm: makes the new norm from a number of channels. Where the old one is of `videonorm.layers`, the
            new one must be.
        conv: makes the new convolution from (in_channels, out_channels, kernel_size) and Conv3d's keywords.

    Raises:
        ValueError: there is nothing to do, or `norm` or `conv` refuses a place, which the message names. The
            model is then as it was.
    """
    if norm is None and conv is None:
        raise ValueError("norm (None) and conv (None) must not both be None")
    if _is_norm(model) or isinstance(model, _ConvNd):
        raise ValueError(f"model ({type(model).__name__}) must hold what is to be swapped as submodules")

    places = list(_places(model))
    report = ConversionReport()
    new: dict[nn.Module, nn.Module] = {}  # by the old one: a module that hangs in two places stays one module
    seen: set[nn.Module] = set()
    for index, place in enumerate(places):
        old = place.module
        if old in seen:
            continue
        seen.add(old)
        try:
            with torch.device(_device(old, model)):
                if norm is not None and _is_norm(old):
                    fresh = _new_norm(norm, old)
                elif conv is not None and isinstance(old, _ConvNd):
                    fresh = _new_convolution(conv, old, places[index + 1 :])
                else:
                    continue
        except _StaysError as reason:
            report.left.append(Left(place.name, type(old).__name__, str(reason)))
            continue
        except ValueError as error:
            raise ValueError(f"{error}, at {place.name}") from error
        kept, dropped = _move_tensors(old, fresh)
        report.changed.append(Change(place.name, type(old).__name__, _title(fresh), kept, dropped))
        new[old] = fresh.train(old.training)
    for place in places:
        if place.module in new:
            setattr(place.parent, place.key, new[place.module])
    if conv is not None:
        group_weight_standardization(model)
    return report


class _StaysError(Exception):
    """The module stays what it is; the message is the reason."""


def _places(module: nn.Module, prefix: str = "") -> Iterator[_Place]:
    """Norms, convolutions and childless modules below `module`, in order of registration."""
    for key, child in module._modules.items():
        if child is None:
            continue
        place = _Place(module, key, f"{prefix}{key}", child)
        if _is_norm(child) or isinstance(child, _ConvNd) or not child._modules:
            yield place
        else:
            yield from _places(child, f"{place.name}.")


def _is_ours(module: nn.Module) -> bool:
    return bool(getattr(module, "is_norm", False))


def _is_norm(module: nn.Module) -> bool:
    return _is_ours(module) or isinstance(module, VOLUME_NORMS + OTHER_NORMS)


def _num_channels(norm: nn.Module) -> int:
    of_torch = isinstance(norm, _BatchNorm | _InstanceNorm) and not _is_ours(norm)
    count = norm.num_features if of_torch else norm.num_channels
    assert isinstance(count, int)
    return count


def _new_norm(norm: NormFactory, old: nn.Module) -> nn.Module:
    if isinstance(old, NoNorm):
        raise _StaysError("it does not normalize")
    if not _is_ours(old) and not isinstance(old, VOLUME_NORMS):
        raise _StaysError("it is not a norm over (B, C, T, H, W)")
    fresh = norm(_num_channels(old))
    if _is_ours(old):
        if not _is_ours(fresh):
            name = type(fresh).__name__
            raise ValueError(f"norm ({name}) must be one of videonorm.layers, like the norm it replaces")
        fresh.activation = old.activation
    before, after = _batch_norm(old), _batch_norm(fresh)
    if hasattr(before, "running_mean") and hasattr(after, "running_mean"):
        for name in ("eps", "momentum"):
            if hasattr(before, name) and hasattr(after, name):
                setattr(after, name, getattr(before, name))
    return fresh


def _batch_norm(norm: nn.Module) -> nn.Module:
    return norm.batch_norm if isinstance(norm, BatchChannelNorm3d) else norm


def _new_convolution(conv: ConvFactory, old: _ConvNd, following: Sequence[_Place]) -> nn.Module:
    if not isinstance(old, nn.Conv3d):
        raise _StaysError("it is not a Conv3d")
    if "weight" not in old._parameters:  # but made of others before each forward
        raise _StaysError("its weight is parametrized")
    make: Callable[..., nn.Conv3d] = conv
    fresh = make(
        old.in_channels,
        old.out_channels,
        old.kernel_size,
        stride=old.stride,
        padding=old.padding,
        dilation=old.dilation,
        groups=old.groups,
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    )
    if isinstance(fresh, ReparametrizedConv3d):
        if not _norm_follows(old, following):
            raise _StaysError("no norm follows it")
    elif type(fresh) is nn.Conv3d and not isinstance(old, ReparametrizedConv3d) and _has_own_forward(old):
        raise _StaysError("its forward is its own")
    return fresh


def _has_own_forward(conv: nn.Conv3d) -> bool:
    return any(
        getattr(type(conv), name) is not getattr(nn.Conv3d, name) for name in ("forward", "_conv_forward")
    )


def _norm_follows(conv: nn.Conv3d, following: Sequence[_Place]) -> bool:
    passing = (nn.Identity, nn.modules.dropout._DropoutNd)
    after = next((place.module for place in following if not isinstance(place.module, passing)), None)
    return (
        after is not None
        and (_is_ours(after) or isinstance(after, VOLUME_NORMS))
        and not isinstance(after, NoNorm)
        and _num_channels(after) == conv.out_channels
    )


def _move_tensors(old: nn.Module, fresh: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give `fresh` those tensors of `old` that it has a place for; return their names and the others'."""
    if isinstance(old, BatchChannelNorm3d) != isinstance(fresh, BatchChannelNorm3d):
        source, target = _batch_norm(old), _batch_norm(fresh)
    else:
        source, target = old, fresh
    movable, places = _tensors(source), _tensors(target)
    like = next((tensor for tensor in movable.values() if tensor.is_floating_point()), None)
    if like is not None:
        fresh.to(dtype=like.dtype)
    kept = []
    for name, tensor in movable.items():
        if name not in places or places[name].shape != tensor.shape:
            continue
        owner, _, key = name.rpartition(".")
        if isinstance(places[name], nn.Parameter) == isinstance(tensor, nn.Parameter):
            moved = tensor
        elif isinstance(places[name], nn.Parameter):
            moved = nn.Parameter(tensor.clone())
        else:
            moved = tensor.detach().clone()
        setattr(target.get_submodule(owner), key, moved)
        kept.append(name)

    if isinstance(old, ReparametrizedConv3d) and not isinstance(fresh, ReparametrizedConv3d):
        fresh.weight = nn.Parameter(old.effective_weight().detach(), requires_grad=old.weight.requires_grad)
    if isinstance(fresh, WeightNormConv3d) and "gain" not in kept:
        fresh.reset_gain()
    if isinstance(fresh, SubBatchNorm3d) and "split_mean" not in kept:
        fresh.split_mean.copy_(fresh.running_mean.expand_as(fresh.split_mean))
        fresh.split_var.copy_(fresh.running_var.expand_as(fresh.split_var))
    prefix = "" if source is old else "batch_norm."
    moved_names = [prefix + name for name in kept]
    return tuple(moved_names), tuple(name for name in _tensors(old) if name not in moved_names)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _device(module: nn.Module, model: nn.Module) -> torch.device:
    """Where the module's tensors are, or the model's if it has none."""
    for owner in (module, model):
        for tensor in (*owner.parameters(), *owner.buffers()):
            return tensor.device
    return torch.get_default_device()


def _title(module: nn.Module) -> str:
    """Such as "GroupNorm3d(64, num_groups=32, eps=1e-05)"."""
    return f"{type(module).__name__}({module.extra_repr()})"

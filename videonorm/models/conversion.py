"""Swap the norms and the convolutions of any network, in place.

A swap of norms does not keep the function (BatchNorm in evaluation is an affine map, GroupNorm is not); it
keeps what was learnt and can be kept: gamma, beta, the weights of the convolutions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from videonorm.layers import (
    BatchChannelNorm3d,
    DynamicTanh3d,
    EvoNormS0,
    FrozenBatchNorm3d,
    GroupNorm3d,
    ImposedBatchNorm3d,
    NoNorm,
    ProxyNorm3d,
    ReparametrizedConv3d,
    SubBatchNorm3d,
    WeightNormConv3d,
    group_weight_standardization,
    is_norm,
)
from videonorm.layers.batch_channel_norm import EstimatedBatchNorm3d
from videonorm.layers.ws_conv import StandardizedConv3d
from videonorm.models.conv_norm import ConvFactory, NormFactory
from videonorm.models.conversion_report import Change, ConversionReport, Left
from videonorm.models.obstacles import (
    VOLUME_NORMS,
    StaysError,
    check_movable,
    holders,
    is_quantized,
    is_scripted,
    shared_tensors,
)

BATCH_NORMS = (_BatchNorm, FrozenBatchNorm3d)
GROUP_NORMS = (nn.GroupNorm, nn.InstanceNorm3d, GroupNorm3d)


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
    flag, eps between batch norms and between group norms, and momentum and whether statistics are tracked
    between batch norms. BatchChannelNorm3d takes part with its batch norm. The tensors themselves move:
    device, dtype and memory format stay, and an optimizer that holds them still does. New parameters learn
    where those of the old module did (where the weight did, in a convolution); where it had none, where any
    of the model does. The random state stays.

    The convolutions it swaps are Conv3d and its subclasses; weight and bias move over. A reparametrized one,
    such as WSConv3d, goes only where a norm follows, because only a norm makes good the scale that it loses:
    where the next module in order of registration, Identity and dropout apart, is a norm over the channels of
    the convolution. So a convolution before a pool, before another convolution or within
    squeeze-and-excitation stays, and so does a classifier, convolutional or linear. A plain convolution in
    the place of a reparametrized one gets its effective weight: the function stays the same. No convolution
    gains or loses a bias. WSConv3d standardize together, as by `group_weight_standardization`.

    What does more than its class, its options and its tensors say stays, and the report names it: a module
    with a parametrized tensor (weight_norm, spectral_norm, pruning, in their older forms too), with hooks or
    a forward of its own, one that is lazy, quantized or compiled, one that an attribute holds beside the
    submodules, and one that shares a tensor which the new module would have for itself.

    Args:
        norm: makes the new norm from a number of channels. Where the old one is of `videonorm.layers`, the
            new one must be.
        conv: makes the new convolution from (in_channels, out_channels, kernel_size) and Conv3d's keywords.

    Raises:
        ValueError: there is nothing to do, the model is compiled by TorchScript, or `norm` or `conv` refuses
            a place, which the message names. The model is then as it was.
    """
    if norm is None and conv is None:
        raise ValueError("norm (None) and conv (None) must not both be None")
    if is_norm(model) or isinstance(model, _ConvNd):
        raise ValueError(f"model ({type(model).__name__}) must hold what is to be swapped as submodules")
    if is_scripted(model):
        raise ValueError(f"model ({type(model).__name__}) must not be compiled by TorchScript")

    places = list(_places(model))
    indices: dict[nn.Module, list[int]] = {}  # a module that hangs in two places stays one module
    for index, place in enumerate(places):
        indices.setdefault(place.module, []).append(index)
    held, shared = holders(model), shared_tensors(model)
    report = ConversionReport()
    new: dict[nn.Module, nn.Module] = {}  # by the old one
    with torch.random.fork_rng(_cuda_devices(model)):
        for old, where in indices.items():
            if not _is_asked(old, norm, conv):
                continue
            name = places[where[0]].name
            try:
                check_movable(old)
                if any(places[index].key == "_orig_mod" for index in where):  # whose parent runs it compiled
                    raise StaysError("it is compiled")
                if old in held:
                    raise StaysError(f"the attribute {held[old]} holds it too")
                with torch.device(_device(old, model)):
                    if isinstance(old, _ConvNd):
                        assert conv is not None
                        fresh = _new_convolution(conv, old, [places[index + 1 :] for index in where])
                    else:
                        assert norm is not None
                        fresh = _new_norm(norm, old)
                kept = _move_tensors(old, fresh, model, shared)
            except StaysError as reason:
                report.left.append(Left(name, type(old).__name__, str(reason)))
                continue
            except ValueError as error:
                raise ValueError(f"{error}, at {name}") from error
            dropped, added = (
                tuple(key for key in _tensors(module) if key not in kept) for module in (old, fresh)
            )
            same = _keeps_function(old, fresh)
            report.changed.append(Change(name, type(old).__name__, title(fresh), kept, dropped, added, same))
            new[old] = fresh.train(old.training)
    for place in places:
        if place.module in new:
            setattr(place.parent, place.key, new[place.module])
    if conv is not None:
        group_weight_standardization(model)
    return report


def _places(module: nn.Module, prefix: str = "") -> Iterator[_Place]:
    """Norms, convolutions, scripted and childless modules below `module`, in order of registration."""
    for key, child in module._modules.items():
        if child is None:
            continue
        place = _Place(module, key, f"{prefix}{key}", child)
        if is_norm(child) or isinstance(child, _ConvNd) or is_scripted(child) or not child._modules:
            yield place
        else:
            yield from _places(child, f"{place.name}.")


def _is_asked(module: nn.Module, norm: NormFactory | None, conv: ConvFactory | None) -> bool:
    if is_scripted(module) or is_quantized(module):  # which are of other classes
        names = [getattr(part, "original_name", type(part).__name__) for part in module.modules()]
        asked = ["Norm"] * (norm is not None) + ["Conv"] * (conv is not None)
        return any(kind in name for kind in asked for name in names)
    return (norm is not None and is_norm(module)) or (conv is not None and isinstance(module, _ConvNd))


def _is_ours(module: nn.Module) -> bool:
    return bool(getattr(module, "is_norm", False))


def _num_channels(norm: nn.Module) -> int:
    of_torch = isinstance(norm, _BatchNorm | _InstanceNorm) and not _is_ours(norm)
    count = norm.num_features if of_torch else norm.num_channels
    assert isinstance(count, int)
    return count


def _new_norm(norm: NormFactory, old: nn.Module) -> nn.Module:
    if isinstance(old, NoNorm):
        raise StaysError("it does not normalize")
    if not _is_ours(old) and not isinstance(old, VOLUME_NORMS):
        raise StaysError("it is not a norm over (B, C, T, H, W)")
    fresh = norm(_num_channels(old))
    if _is_ours(old):
        if not _is_ours(fresh):
            name = type(fresh).__name__
            raise ValueError(f"norm ({name}) must be one of videonorm.layers, like the norm it replaces")
        fresh.activation = old.activation
    before, after = _batch_norm(old), _batch_norm(fresh)
    if any(isinstance(before, kind) and isinstance(after, kind) for kind in (BATCH_NORMS, GROUP_NORMS)):
        after.eps = before.eps
    if getattr(before, "running_mean", None) is None and isinstance(after, FrozenBatchNorm3d):
        raise StaysError("it has no running statistics to freeze")
    if isinstance(before, _BatchNorm) and isinstance(after, _BatchNorm):
        _move_tracking(before, after)
    return fresh


def _move_tracking(before: _BatchNorm, after: _BatchNorm) -> None:
    after.momentum = before.momentum
    if after.running_mean is not None:
        after.track_running_stats = before.track_running_stats
    if before.running_mean is None:
        if isinstance(after, EstimatedBatchNorm3d):
            raise StaysError("it has no running statistics to normalize by")
        after.track_running_stats = False
        after.running_mean = after.running_var = after.num_batches_tracked = None


def _batch_norm(norm: nn.Module) -> nn.Module:
    return norm.batch_norm if isinstance(norm, BatchChannelNorm3d) else norm


def _new_convolution(conv: ConvFactory, old: _ConvNd, following: Sequence[Sequence[_Place]]) -> nn.Module:
    """`following` has what comes after the convolution, for each place where it hangs."""
    if not isinstance(old, nn.Conv3d):
        raise StaysError("it is not a Conv3d")
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
    if isinstance(fresh, ReparametrizedConv3d) and not all(_norm_follows(old, after) for after in following):
        raise StaysError("no norm follows it")
    return fresh


def _norm_follows(conv: nn.Conv3d, following: Sequence[_Place]) -> bool:
    passing = (nn.Identity, nn.modules.dropout._DropoutNd)
    after = next((place.module for place in following if not isinstance(place.module, passing)), None)
    return (
        after is not None
        and (_is_ours(after) or isinstance(after, VOLUME_NORMS))
        and _takes_any_scale(after)
        and _num_channels(after) == conv.out_channels
    )


def _takes_any_scale(norm: nn.Module) -> bool:
    """Whether its output stays, but for eps, where its input is multiplied."""
    only_affine = isinstance(norm, EvoNormS0) and norm.activation is None
    return not isinstance(norm, NoNorm | DynamicTanh3d) and not only_affine


def _move_tensors(old: nn.Module, fresh: nn.Module, model: nn.Module, shared: set[int]) -> tuple[str, ...]:
    """Give `fresh` those tensors of `old` that it has a place for, and return their names.

    Raises:
        StaysError: a tensor that is `shared` with another module would be this one's alone.
    """
    if isinstance(old, BatchChannelNorm3d) != isinstance(fresh, BatchChannelNorm3d):
        source, target = _batch_norm(old), _batch_norm(fresh)
    else:
        source, target = old, fresh
    movable, places = _tensors(source), _tensors(target)
    like = next((t for t in (*movable.values(), *model.parameters()) if t.is_floating_point()), None)
    if like is not None:
        fresh.to(dtype=like.dtype)
    moved: dict[str, Tensor] = {}
    for name, tensor in movable.items():
        if name not in places or places[name].shape != tensor.shape:
            continue
        moved[name] = tensor
        if isinstance(places[name], nn.Parameter) != isinstance(tensor, nn.Parameter):
            value = tensor.detach().clone()
            moved[name] = nn.Parameter(value) if isinstance(places[name], nn.Parameter) else value
        owner, _, key = name.rpartition(".")
        setattr(target.get_submodule(owner), key, moved[name])

    if isinstance(old, ReparametrizedConv3d) and not isinstance(fresh, ReparametrizedConv3d):
        effective = nn.Parameter(old.effective_weight().detach(), requires_grad=old.weight.requires_grad)
        moved["weight"] = fresh.weight = effective
    if isinstance(fresh, WeightNormConv3d) and "gain" not in moved:
        fresh.reset_gain()
        if not fresh.gain.is_meta and not fresh.gain.all():
            raise StaysError("a filter of it is all zeros, which has no direction")
    if isinstance(fresh, SubBatchNorm3d) and "split_mean" not in moved and fresh.running_mean is not None:
        fresh.split_mean.copy_(fresh.running_mean.expand_as(fresh.split_mean))
        fresh.split_var.copy_(fresh.running_var.expand_as(fresh.split_var))
    for name, tensor in movable.items():
        parted = name in moved and (moved[name] is not tensor or "gain" in places.keys() - moved.keys())
        if parted and id(tensor) in shared:
            raise StaysError(f"its {name} is shared with another module")
    learnt = [old.weight] if isinstance(old, nn.Conv3d) else [*old.parameters()] or [*model.parameters()]
    if not any(parameter.requires_grad for parameter in learnt):
        ids = {id(tensor) for tensor in movable.values()}
        for parameter in fresh.parameters():
            parameter.requires_grad_(parameter.requires_grad and id(parameter) in ids)
    prefix = "" if source is old else "batch_norm."
    return tuple(prefix + name for name in moved)


def _keeps_function(old: nn.Module, fresh: nn.Module) -> bool:
    """Whether `fresh`, which has got the tensors of `old`, computes in evaluation what that did."""
    if isinstance(old, nn.Conv3d):
        if isinstance(old, StandardizedConv3d) and isinstance(fresh, StandardizedConv3d):
            return old.formula == fresh.formula and (old.gain is None) >= (fresh.gain is None)
        plain = not isinstance(old, ReparametrizedConv3d)
        if isinstance(fresh, WeightNormConv3d):
            return plain or isinstance(old, WeightNormConv3d)
        return not isinstance(fresh, ReparametrizedConv3d)
    if _groups(old) != _groups(fresh) or _proxy_eps(old) != _proxy_eps(fresh):
        return False
    before, after = _batch_norm(old), _batch_norm(fresh)
    if isinstance(before, ImposedBatchNorm3d) or isinstance(after, ImposedBatchNorm3d):
        return type(before) is type(after)  # whose buffers have moved
    if isinstance(before, BATCH_NORMS) and isinstance(after, BATCH_NORMS):
        return before.running_mean is not None and after.running_mean is not None
    return isinstance(before, GROUP_NORMS) and isinstance(after, GROUP_NORMS)


def _groups(norm: nn.Module) -> int | None:
    """Of channels, that the statistics of a clip are of; None without such statistics."""
    if isinstance(norm, nn.InstanceNorm3d):
        return None if norm.track_running_stats else norm.num_features
    groups: int | None = getattr(norm, "num_groups", None)
    return groups


def _proxy_eps(norm: nn.Module) -> float | None:
    return norm.proxy_eps if isinstance(norm, ProxyNorm3d) else None


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    named = (module.named_parameters, module.named_buffers)
    return {name: tensor for tensors in named for name, tensor in tensors(remove_duplicate=False)}


def _device(module: nn.Module, model: nn.Module) -> torch.device:
    """Where the module's tensors are, or the model's if it has none."""
    for owner in (module, model):
        for tensor in (*owner.parameters(), *owner.buffers()):
            return tensor.device
    return torch.get_default_device()


def _cuda_devices(model: nn.Module) -> list[int]:
    return sorted({t.device.index for t in (*model.parameters(), *model.buffers()) if t.is_cuda})


def title(module: nn.Module) -> str:
    """Such as "GroupNorm3d(64, num_groups=32, eps=1e-05)"."""
    return f"{type(module).__name__}({module.extra_repr()})"

"""Make the convolutions of a network plain: standardized weights, and batch norms behind them, folded in.

With s = gamma / sqrt(running_var + eps), which a batch norm in evaluation multiplies a channel by:

    s * (conv(x, w) + b - running_mean) + beta  =  conv(x, s * w) + s * (b - running_mean) + beta
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from videonorm.layers import BatchNorm3d, FrozenBatchNorm3d, NoNorm, ReparametrizedConv3d, is_norm
from videonorm.messages import one_line
from videonorm.models.conversion import BATCH_NORMS, convert, title
from videonorm.models.conversion_report import Change, ConversionReport, Left
from videonorm.models.obstacles import VOLUME_NORMS, StaysError, check_movable, holders

CLIPS = 1, 3, 16, 224, 224


def fold(network: nn.Module, clips_shape: tuple[int, ...] = CLIPS) -> ConversionReport:
    """Make the convolutions of `network` plain, in place, and keep its function in evaluation.

    Reparametrized convolutions (WSConv3d, its halves, WeightNormConv3d) become Conv3d with their effective
    weights. A batch norm that normalizes by running statistics (ours and torch's in evaluation mode,
    FrozenBatchNorm3d always, the batch norm in a BatchChannelNorm3d) goes into the Conv3d before it, which
    gets a bias. NoNorm stays in the place of one of ours, with its residual and its activation; Identity in
    that of torch's.

    Which convolution that is, and that nothing else reads what it gives, is found by running the network on
    fake tensors, which have sizes and no memory. A norm that stays is in the report, with the reason.

    Args:
        clips_shape: (B, 3, T, H, W) that the network takes. Of no other consequence.

    Raises:
        ValueError: the network cannot be run on such clips, has seen none yet where it is lazy, is compiled
            by TorchScript, or is itself a norm or a convolution.
    """
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"network ({type(network).__name__}) must have seen a clip: {name} is lazy")
    computed = {name for name, part in network.named_modules() if isinstance(part, ReparametrizedConv3d)}
    plain = convert(network, conv=nn.Conv3d)
    report = ConversionReport(
        [change for change in plain.changed if change.name in computed],
        [left for left in plain.left if left.name in computed],
    )
    flow = _Flow(network)
    flow.run(clips_shape)
    names = {module: name for name, module in network.named_modules()}
    held = holders(network)
    stand_ins: dict[nn.Module, nn.Module] = {}
    for norm in _norms(network):
        try:
            conv = _convolution_before(norm, flow, names)
            if norm in held:
                raise StaysError(f"the attribute {held[norm]} holds it too")
        except StaysError as reason:
            report.left.append(Left(names[norm], type(norm).__name__, str(reason)))
            continue
        tensors = (*norm.named_parameters(), *norm.named_buffers())
        stand_ins[norm] = _stand_in(norm)
        report.changed.append(
            Change(
                names[norm],
                type(norm).__name__,
                f"{title(stand_ins[norm])}, in {names[conv]}",
                kept=(),
                dropped=tuple(name for name, _ in tensors),
                keeps_function=True,
            )
        )
        _fold_into(conv, norm)
    for parent in list(network.modules()):
        for key, child in parent._modules.items():
            if child in stand_ins:
                setattr(parent, key, stand_ins[child])
    return report


def _norms(network: nn.Module) -> list[nn.Module]:
    """In the order of the network, those in a norm too. NoNorm is none."""
    return [module for module in network.modules() if is_norm(module) and not isinstance(module, NoNorm)]


class _Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """From which convolution to which batch norm the tensors of a forward go, and to what else."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.network = network
        self.calls: Counter[nn.Module] = Counter()
        self.source: dict[nn.Module, nn.Conv3d] = {}  # of a norm's x
        self.readers: dict[nn.Conv3d, int] = defaultdict(int)
        # By id, which is the tensor's own as long as that is kept.
        self._made: dict[int, tuple[nn.Conv3d, Tensor]] = {}
        self._inside = 0  # how many batch norms

    def run(self, clips_shape: tuple[int, ...]) -> None:
        like = next((p for p in self.network.parameters() if p.is_floating_point()), torch.empty(0))
        hooks = []
        for module in self.network.modules():
            if isinstance(module, nn.Conv3d):
                hooks.append(module.register_forward_hook(self._after_convolution))
            elif isinstance(module, BATCH_NORMS):
                hooks.append(module.register_forward_pre_hook(self._before_norm, with_kwargs=True))
                hooks.append(module.register_forward_hook(self._after_norm, always_call=True))
        try:
            with (
                torch.no_grad(),
                _evaluating(self.network),
                torch.compiler.set_stance("force_eager"),
                FakeTensorMode(allow_non_fake_inputs=True),
                self,
            ):
                result = self.network(torch.empty(clips_shape, dtype=like.dtype, device=like.device))
        except Exception as error:  # of whatever kind the network makes it
            raise ValueError(
                f"network ({type(self.network).__name__}) must run on clips {clips_shape} to be folded: "
                f"{type(error).__name__}: {one_line(error)}"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        self._read(result)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._inside:
            self._read((args, kwargs))
        return func(*args, **(kwargs or {}))

    def _read(self, values: Any) -> None:
        for value in tree_leaves(values):
            if id(value) in self._made:
                self.readers[self._made[id(value)][0]] += 1

    def _after_convolution(self, conv: nn.Module, args: Any, y: Tensor) -> None:
        assert isinstance(conv, nn.Conv3d)
        self.calls[conv] += 1
        self._made[id(y)] = conv, y

    def _before_norm(self, norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs.get("x", kwargs.get("input"))
        if id(x) in self._made:
            self.source[norm] = self._made[id(x)][0]
        self.calls[norm] += 1
        self._read((args, kwargs))  # once, whatever it does with it
        self._inside += 1

    def _after_norm(self, norm: nn.Module, args: Any, y: Any) -> None:
        self._inside -= 1


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    trained = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True


def _convolution_before(norm: nn.Module, flow: _Flow, names: dict[nn.Module, str]) -> nn.Conv3d:
    """The convolution that `norm` can be folded into; a StaysError says why there is none."""
    if not getattr(norm, "is_norm", False) and not isinstance(norm, VOLUME_NORMS):
        raise StaysError("it is not a norm over (B, C, T, H, W)")
    if not isinstance(norm, BATCH_NORMS):
        raise StaysError("it normalizes by statistics of the clip")
    if getattr(norm, "running_mean", None) is None:
        raise StaysError("it has no running statistics")
    if norm.training and not isinstance(norm, FrozenBatchNorm3d):
        raise StaysError("it is in training mode")
    check_movable(norm)
    if flow.calls[norm] != 1:
        raise StaysError(f"it is called {flow.calls[norm]} times")
    conv = flow.source.get(norm)
    if conv is None:
        raise StaysError("what it normalizes is not what a Conv3d gives")
    if flow.calls[conv] != 1:
        raise StaysError(f"{names[conv]} before it is called {flow.calls[conv]} times")
    if flow.readers[conv] != 1:
        raise StaysError(f"what {names[conv]} before it gives has other readers")
    try:
        check_movable(conv)
    except StaysError as reason:
        raise StaysError(f"{names[conv]} before it stays as it is: {reason}") from None
    return conv


def _stand_in(norm: nn.Module) -> nn.Module:
    if not getattr(norm, "is_norm", False):
        return nn.Identity().train(norm.training)
    channels, activation = norm.num_channels, norm.activation
    assert isinstance(channels, int)
    return NoNorm(channels, activation=activation).train(norm.training)  # type: ignore[arg-type]


def _fold_into(conv: nn.Conv3d, norm: nn.Module) -> None:
    """New parameters, in float64 until they are done: another module may share the old ones."""
    assert isinstance(norm, _BatchNorm | FrozenBatchNorm3d)
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        var, mean = (statistic.double() for statistic in (norm.running_var, norm.running_mean))
        of_norm, shift = norm.affine_map() if isinstance(norm, BatchNorm3d) else (norm.weight, norm.bias)
        scale = torch.rsqrt(var + norm.eps)
        if of_norm is not None:
            scale = of_norm.double() * scale
        bias = -mean * scale if conv.bias is None else (conv.bias.double() - mean) * scale
        if shift is not None:
            bias = bias + shift.double()
        weight = conv.weight.double() * scale.view(-1, 1, 1, 1, 1)
        learns = conv.weight.requires_grad
        conv.weight, conv.bias = (nn.Parameter(t.to(conv.weight.dtype), learns) for t in (weight, bias))

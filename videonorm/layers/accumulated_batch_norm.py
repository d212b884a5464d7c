"""Batch normalization over an accumulated batch: statistics and gradients of all of its micro-batches.

With S the values of a channel in all micro-batches, n of them, batch norm and its backward are

    y      = weight * x_hat + bias,   x_hat = (x - mean_S(x)) * rstd_S(x)
    grad_x = weight * rstd * (grad_y - sum_S(grad_y) / n - x_hat * sum_S(grad_y * x_hat) / n)

Four numbers a channel are all that a micro-batch has to know of the others. But those of a layer depend on
those of the layers before it (statistics) or behind it (sums). So they are settled one after the other, by
passes over all micro-batches, each as if those of the pass before were right: after every pass one more layer
in a row is. When none changes any more, all are right, and so are outputs and gradients: those of one batch
of all clips, but for rounding.

What it costs. Networks of ours are cut between their blocks (``chain``); passes go over a block at a time.
A block with c norms in a row takes c + 1 forwards without gradients; then c forwards with the backward of
activations alone, and one with the whole backward. Where each half of a backward takes as long as a forward,
that is 3c + 4 forwards in place of 3: the compute of plain accumulation 3.3 times for basic blocks (c = 2),
4.3 times for bottlenecks (c = 3). A norm beside these, in a shortcut, may take a pass more of either kind.

What is held: what goes from block to block, of all micro-batches, and the graph of one block for one of them,
in place of that of all blocks. For four micro-batches that is 0.50 (ResNet3d of depth 10, mc3) or 0.37 (depth
50, slow) of what one batch of all clips keeps for backward. A network without ``chain`` is one block: of all
micro-batches it holds clips and logits only, besides the graph of one, and c is the number of its norms in a
row.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from videonorm.layers.batch_norm import BatchNorm3d, batch_norm, statistics_dtype
from videonorm.layers.precise_batch_norm import Moments, estimated_batch_norms

SITES = [0, 2, 3, 4]


class AccumulatedBatchNorm3d(BatchNorm3d):
    """Batch normalization over all clips of an accumulated batch, in `accumulated_loss`.

    Elsewhere it is BatchNorm3d, whose arguments it has; ``min_clips`` is of all micro-batches together.
    """

    _statistics_batch_name = "batch_size * accumulated batches"
    _shared: "_Shared | None" = None

    def statistics_batch(self, batch_size: int) -> int:
        return batch_size if self._shared is None else self._shared.clips

    def _normalize_by_batch(self, x: Tensor) -> Tensor:
        if self._shared is None:
            return super()._normalize_by_batch(x)
        return self._shared.normalize(self, x)


class _Shared:
    """What the micro-batches of a step share in one norm, and what the pass that runs now gathers of it."""

    def __init__(self, clips: int) -> None:
        self.clips = clips
        self.count = 0.0  # values a channel
        self.mean: Tensor | None = None
        self.var: Tensor | None = None  # biased
        self.sums: Tensor | None = None  # (2, C): of grad_y, and of grad_y * x_hat
        self.probe: Tensor | None = None
        self.begin(None)

    def begin(self, probe: Tensor | None) -> None:
        """Start a pass: with a `probe`, whose gradient is asked for, over sums; without over statistics."""
        self.probe = probe
        self.calls = 0
        self.moments = Moments()
        self.gathered: Tensor | None = None

    def normalize(self, norm: AccumulatedBatchNorm3d, x: Tensor) -> Tensor:
        self.calls += 1
        if self.probe is not None:
            y: Tensor = _Normalize.apply(x, norm.weight, norm.bias, self.probe, norm.eps, self)
            return y
        self.moments.add(x, 1)
        known = self.mean is not None and self.var is not None
        mean, var = (self.mean, self.var) if known else (norm.running_mean, norm.running_var)
        return batch_norm(x, mean, var, norm.weight, norm.bias, norm.eps)

    def settle_statistics(self, dtype: torch.dtype) -> bool:
        """Take over what was gathered; whether it is new."""
        self.count = float(self.moments.count[0, 0])
        mean = self.moments.mean[0].to(dtype)
        var = (self.moments.squares[0] / self.count).to(dtype)
        old_mean, old_var = self.mean, self.var
        self.mean, self.var = mean, var
        return (
            old_mean is None
            or old_var is None
            or not (torch.equal(mean, old_mean) and torch.equal(var, old_var))
        )

    def settle_sums(self) -> bool:
        """Take over what was gathered; whether it is new."""
        old, new = self.sums, self.gathered
        if new is None:  # what the norm gives goes nowhere
            return False
        self.sums = new
        return old is None or not torch.equal(old, new)

    def track(self, norm: AccumulatedBatchNorm3d) -> None:
        """Enter the statistics into the running ones, once a step."""
        share = norm._count_batch()
        if share is None or self.mean is None or self.var is None:
            return
        unbiased = self.var * (self.count / max(self.count - 1, 1.0))
        for running, new in ((norm.running_mean, self.mean), (norm.running_var, unbiased)):
            running.copy_(torch.lerp(running.to(new.dtype), new, share))


class _Normalize(torch.autograd.Function):
    """Batch norm by shared statistics; its backward goes by the sums that are known, and gathers new ones."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, probe: Tensor, eps: float, shared: _Shared
    ) -> Tensor:
        assert shared.mean is not None and shared.var is not None
        ctx.save_for_backward(x, weight)
        ctx.shared, ctx.eps = shared, eps
        return batch_norm(x, shared.mean, shared.var, weight, bias, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        shared: _Shared = ctx.shared
        dtype, each = statistics_dtype(x), (-1, 1, 1, 1)
        assert shared.mean is not None and shared.var is not None
        rstd = torch.rsqrt(shared.var + ctx.eps)
        grad, centered = grad_y.to(dtype), x.to(dtype) - shared.mean.view(each)
        sums = torch.stack([grad.sum(SITES), (grad * centered).sum(SITES) * rstd])
        shared.gathered = sums.double() if shared.gathered is None else shared.gathered + sums
        scale = weight.to(dtype) * rstd
        grad_x = grad * scale.view(each)
        if shared.sums is not None:
            of_grad, of_both = (shared.sums / shared.count).to(dtype)
            grad_x.addcmul_(centered, (-scale * rstd * of_both).view(each)).sub_((scale * of_grad).view(each))
        own = [total.to(weight.dtype) for total in sums]
        return grad_x.to(x.dtype), own[1], own[0], torch.zeros_like(shared.probe), None, None  # type: ignore[arg-type]


def accumulated_batch_norms(network: nn.Module) -> list[AccumulatedBatchNorm3d]:
    """Those in training mode that `accumulated_loss` acts on.

    Raises:
        ValueError: another norm keeps running statistics beside them.
    """
    training = [norm for norm in estimated_batch_norms(network).values() if norm.training]
    ours = [norm for norm in training if isinstance(norm, AccumulatedBatchNorm3d)]
    others = [type(norm).__name__ for norm in training if norm not in ours]
    if ours and others:
        raise ValueError(
            f"norm ({others[0]}) must not be beside AccumulatedBatchNorm3d, whose passes would enter its "
            "running statistics several times"
        )
    return ours


def accumulated_loss(
    network: nn.Module, micro_batches: Sequence[Tensor], losses: Sequence[Callable[[Tensor], Tensor]]
) -> Tensor:
    """The sum of the losses of micro-batches that share the statistics of each AccumulatedBatchNorm3d.

    Outputs, gradients (of the parameters, and of micro-batches that require them) and running statistics are
    those of one batch of all clips. The gradients are there when this returns; ``backward`` hands them out.
    Random numbers, such as dropout's, are drawn of seeds that are one for a block and a micro-batch.

    Args:
        network: in training mode; clips (B, 3, T, H, W) to logits (B, K).
        micro_batches: clips of each; B may differ.
        losses: for each, of its logits.

    Raises:
        ValueError: another norm keeps running statistics beside these, or a forward calls one of these twice.
    """
    num_clips = sum(len(clips) for clips in micro_batches)
    shared = {norm: _Shared(num_clips) for norm in accumulated_batch_norms(network)}
    cut: Callable[[], list[Callable[[Tensor], Tensor]]] = getattr(network, "chain", lambda: [network])
    chain = cut()
    seeds = torch.randint(2**62, (len(chain), len(micro_batches))).tolist()
    blocks = [_Block(*of_block, shared) for of_block in zip(chain, seeds, strict=True)]
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for norm, of_norm in shared.items():
            norm._shared = of_norm
        inputs: list[list[Tensor]] = []
        x = [clips.detach() for clips in micro_batches]
        with torch.no_grad():
            for block in blocks:
                inputs.append(x)
                x = block.forward(x)
        torch.clear_autocast_cache()  # of weights that were cast without gradients
        with torch.enable_grad():
            value, grads = _of_losses(losses, x)
            totals: list[Tensor | None] = [None] * len(parameters)
            for index in reversed(range(len(blocks))):
                wanted = [index > 0 or clips.requires_grad for clips in micro_batches]
                grads = blocks[index].backward(inputs.pop(), grads, wanted, parameters, totals)
        with torch.no_grad():
            for norm, of_norm in shared.items():
                of_norm.track(norm)
    finally:
        for norm in shared:
            norm._shared = None
    known: Tensor = _Known.apply(value, [*totals, *grads], *parameters, *micro_batches)
    return known


def _of_losses(
    losses: Sequence[Callable[[Tensor], Tensor]], logits: list[Tensor]
) -> tuple[Tensor, list[Tensor | None]]:
    values: list[Tensor] = []
    grads: list[Tensor | None] = []
    for loss, of_batch in zip(losses, logits, strict=True):
        leaf = of_batch.detach().requires_grad_()
        value = loss(leaf)
        values.append(value.detach())
        grads.append(torch.autograd.grad(value, leaf)[0])
    return torch.stack(values).sum(), grads


class _Block:
    """A part of the network, through which all micro-batches go before any goes on."""

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        seeds: list[int],
        shared: dict[AccumulatedBatchNorm3d, _Shared],
    ) -> None:
        self._function = function
        self._seeds = seeds
        self._shared = shared
        self._called: list[_Shared] = []

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """Settle the statistics of the norms within and give the outputs."""
        passes = 0
        while True:
            for shared in self._shared.values():
                shared.begin(None)
            outputs = [self._run(index, x) for index, x in enumerate(inputs)]
            self._called = [shared for shared in self._shared.values() if shared.calls]
            for norm, shared in self._shared.items():
                if shared.calls not in (0, len(inputs)):
                    raise ValueError(
                        f"{type(norm).__name__} must be called once in a forward, not {shared.calls} times "
                        f"in {len(inputs)}"
                    )
            if passes == len(self._called):
                return outputs
            changed = [shared.settle_statistics(statistics_dtype(inputs[0])) for shared in self._called]
            if not any(changed):
                return outputs
            passes += 1

    def backward(
        self,
        inputs: list[Tensor],
        grads: list[Tensor | None],
        wanted: list[bool],
        parameters: list[nn.Parameter],
        totals: list[Tensor | None],
    ) -> list[Tensor | None]:
        """Settle the sums of the norms within; add parameters' gradients to `totals`, give the inputs'."""
        for _ in self._called:
            probes = self._begin(inputs[0])
            for index, (x, grad) in enumerate(zip(inputs, grads, strict=True)):
                torch.autograd.grad(self._run(index, x), probes, grad, allow_unused=True)
            changed = [shared.settle_sums() for shared in self._called]
            if not any(changed):
                break
        self._begin(inputs[0])
        of_inputs: list[Tensor | None] = []
        for index, (x, grad) in enumerate(zip(inputs, grads, strict=True)):
            leaf = x.detach().requires_grad_(wanted[index])
            y = self._run(index, leaf)
            leaves = [*parameters, leaf] if wanted[index] else parameters
            found = (
                list(torch.autograd.grad(y, leaves, grad, allow_unused=True)) if y.requires_grad else [None]
            )
            of_inputs.append(found.pop() if wanted[index] else None)
            for at, new in enumerate(found[: len(totals)]):
                if new is not None:
                    old = totals[at]
                    totals[at] = new if old is None else old.add_(new)
        return of_inputs

    def _begin(self, like: Tensor) -> list[Tensor]:
        probes = [like.new_zeros(()).requires_grad_() for _ in self._called]
        for shared, probe in zip(self._called, probes, strict=True):
            shared.begin(probe)
        return probes

    def _run(self, index: int, x: Tensor) -> Tensor:
        # Not torch.manual_seed, which takes note of the stack of calls for a CUDA that is not begun.
        generators = [torch.default_generator]
        if x.is_cuda:
            generators.append(torch.cuda.default_generators[x.device.index])
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            for generator in generators:
                generator.manual_seed(self._seeds[index])
            return self._function(x)


class _Known(torch.autograd.Function):
    """A value whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, grads: list[Tensor | None], *leaves: Tensor) -> Tensor:
        ctx.grads = grads
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if grad is None else grad * grad_value.to(grad.dtype) for grad in ctx.grads)
        return None, None, *scaled

"""Moving average batch normalization."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from videonorm.layers.batch_norm import statistics_dtype
from videonorm.layers.norm import Activation, AffineNorm


class MovingAverageBatchNorm3d(AffineNorm):
    """Moving average batch norm, MABN (Yan et al., ICLR 2020, arXiv:2001.06838): statistics of k batches.

        y = weight[c] * r * z + bias[c],    z = x / sqrt(square + eps)
        r = clip(sqrt(square + eps) / sqrt(running_square + eps), 1 / r_max, r_max)

    square is the mean of x ** 2 over all clips and T, H, W, averaged over this batch and the k - 1 before it;
    no mean is taken off, for which it needs convolutions of centred filters (`WSCenterOnlyConv3d`). The
    statistic of backward, the mean of z times its gradient, is averaged in the same way, in place of the
    derivative of square:

        grad_x = (grad_z - z * mean(z * grad_z)) / sqrt(square + eps)

    as in the authors' MABN.py, from which the two warm-ups are, too. Batches are counted from 1, and
    micro-batches that are accumulated count each. Statistics are fp32 whatever the dtype of x. Evaluation
    takes running_square in the place of square, and r = 1.

    One clip will do: its statistics are k clips' when the warm-up is over, and up to then its own. Of several
    processes each takes the statistics of its own batch, while DDP gives the buffers of the first to all: of
    the k batches k - 1 are that process's. torch.compile breaks its graph here, as backward writes a buffer.

    Args:
        num_channels: C.
        num_batches: k. The authors simulate 32 clips: 16 batches of 2.
        eps: added to the mean squares.
        momentum: the share of `square` in the running one, which enters it behind the batch.
        warmup: the batch from which on, if k have gone before it, the statistics are those of k batches, and
            not its own.
        renorm_warmup: the batch up to which r is 1.
        r_max: at least 1.
        activation: "relu" or None.

    Raises:
        ValueError: num_batches or r_max is below 1.
    """

    min_clips: ClassVar[int] = 1
    running_square: Tensor
    squares: Tensor
    gradients: Tensor
    batches: Tensor

    def __init__(
        self,
        num_channels: int,
        num_batches: int = 16,
        *,
        eps: float = 1e-5,
        momentum: float = 0.02,
        warmup: int = 100,
        renorm_warmup: int = 1000,
        r_max: float = 5.0,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(num_channels, activation=activation)
        for name, value in (("num_batches", num_batches), ("r_max", r_max)):
            if value < 1:
                raise ValueError(f"{name} ({value}) must be at least 1")
        self.num_batches = num_batches
        self.eps = eps
        self.momentum = momentum
        self.warmup = warmup
        self.renorm_warmup = renorm_warmup
        self.r_max = r_max
        self.register_buffer("running_square", torch.ones(num_channels))
        self.register_buffer("squares", torch.zeros(num_batches, num_channels))
        self.register_buffer("gradients", torch.zeros(num_batches, num_channels))
        # Which batch each place has the statistics of. A counter, which might come from a batch norm or from
        # buffers of another k, would count statistics that are not there.
        self.register_buffer("batches", torch.zeros(num_batches, dtype=torch.long))

    def statistics_batch(self, batch_size: int) -> int:
        """How many clips of one batch share statistics, the "normalization batch size" of the paper."""
        return batch_size

    def normalize(self, x: Tensor) -> Tensor:
        wide = x.to(statistics_dtype(x))
        if not self.training or not x.shape[0]:
            rstd = torch.rsqrt(self.running_square.to(wide.dtype) + self.eps)
            return self.scale_and_shift(wide, rstd.view(-1, 1, 1, 1)).type_as(x)
        # Tensors and no numbers of Python: a step must not wait for a device's counter.
        count = self.batches.max() + 1
        place, moves = (count % self.num_batches).view(1), count > max(self.num_batches, self.warmup - 1)
        with torch.no_grad():
            square = wide.square().mean((0, 2, 3, 4))
            squares = self.squares.to(wide.dtype).index_copy(0, place, square[None])
            square = torch.where(moves, squares.mean(0), square)
            running = self.running_square.to(wide.dtype)
            r = ((square + self.eps) / (running + self.eps)).sqrt().clamp(1 / self.r_max, self.r_max)
            r = torch.where(count > max(self.renorm_warmup, self.warmup), r, torch.ones_like(r))
            self.squares.copy_(squares)
            self.running_square.copy_(torch.lerp(running, square, self.momentum))
            self.batches.index_copy_(0, place, count.view(1))
        z = wide * torch.rsqrt(square + self.eps).view(-1, 1, 1, 1)
        z = _with_moving_gradient(z, self.gradients, place, moves)
        return self.scale_and_shift(z, r.view(-1, 1, 1, 1)).type_as(x)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, num_batches={self.num_batches}, eps={self.eps}, "
            f"momentum={self.momentum}, warmup={self.warmup}, renorm_warmup={self.renorm_warmup}, "
            f"r_max={self.r_max}"
        )


@torch.compiler.disable(  # type: ignore[no-untyped-call, untyped-decorator]
    reason="a compiled backward would not write into the buffer"
)
def _with_moving_gradient(z: Tensor, gradients: Tensor, place: Tensor, moves: Tensor) -> Tensor:
    y: Tensor = _MovingGradient.apply(z, gradients, place, moves)
    return y


class _MovingGradient(torch.autograd.Function):
    """z, whose gradient loses its part along z as told by the buffer `gradients` (k, C).

    The batch's own mean of z times gradient enters the buffer at `place`, and alone counts until it `moves`.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, gradients: Tensor, place: Tensor, moves: Tensor) -> Tensor:
        ctx.save_for_backward(z, place, moves)
        ctx.gradients = gradients  # as it will be: another batch may write into it before backward
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor) -> tuple[Tensor, None, None, None]:
        z, place, moves = ctx.saved_tensors
        own = (grad_z * z).mean((0, 2, 3, 4))
        gradients = ctx.gradients.to(z.dtype).index_copy(0, place, own[None])
        ctx.gradients.copy_(gradients)
        mean = torch.where(moves, gradients.mean(0), own)
        return grad_z - z * mean.view(-1, 1, 1, 1), None, None, None

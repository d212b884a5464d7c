"""Max pooling."""

from typing import Any

import torch
from torch import Tensor, nn

from videonorm.layers.recomputation import is_recomputing


class MaxPool3d(nn.MaxPool3d):
    """torch's max pool, which in ``recompute_norms`` finds its indices again in backward and keeps none."""

    def forward(self, x: Tensor) -> Tensor:
        if self.return_indices or not is_recomputing():
            y: Tensor = super().forward(x)
            return y
        y = _MaxPool.apply(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        return y


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *geometry: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.geometry = geometry
        y: Tensor = torch.ops.aten.max_pool3d_with_indices(x, *ctx.geometry)[0]
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        _, indices = torch.ops.aten.max_pool3d_with_indices(x.detach(), *ctx.geometry)
        grad_x = torch.ops.aten.max_pool3d_with_indices_backward(grad_y, x, *ctx.geometry, indices)
        return grad_x, *(None for _ in ctx.geometry)

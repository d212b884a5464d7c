"""A training that has diverged: noticed at every step on the device, read where values are read anyway."""

import torch
from torch import Tensor, nn

from videonorm.errors import UserError

PATIENCE = 32  # steps that a gradient scaler may skip in a row: from its 2 ** 16 down to 2 ** -16


class FiniteLoss:
    """Keeps the step since which the training loss has not been finite, without waiting for the device.

    Args:
        scaled: whether a gradient scaler (fp16) skips steps whose gradients overflow. Such a step leaves the
            weights as they were, so it takes ``PATIENCE`` of them in a row to be a divergence.
    """

    def __init__(self, scaled: bool) -> None:
        self.scaled = scaled
        self._since: Tensor | None = None  # -1: it is finite
        self._last = 0

    def watch(self, loss: Tensor, step: int) -> None:
        """Enter the loss of a step; nothing is read."""
        if self._since is None:
            self._since = torch.full((), -1, device=loss.device, dtype=torch.int64)
        wrong = ~loss.detach().isfinite()
        since = torch.where(wrong & (self._since < 0), step, self._since)
        self._since = torch.where(wrong, since, -1) if self.scaled else since
        self._last = step

    @property
    def diverged_at(self) -> int | None:
        """The first step of those without a finite loss; waits for the device."""
        since = -1 if self._since is None else int(self._since)
        patience = PATIENCE if self.scaled else 1
        return since if since >= 0 and self._last - since + 1 >= patience else None


def check_finite_weights(model: nn.Module, step: int) -> None:
    """Raise UserError, naming the first, if trained weights are not finite."""
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad and p.numel()}
    # Of FSDP's, the share of this process.
    local = [p.to_local() if hasattr(p, "to_local") else p for p in trained.values()]
    finite = torch.stack([p.isfinite().all() for p in local]).tolist() if local else []
    for name, good in zip(trained, finite, strict=True):
        if not good:
            raise UserError(f"weights must be finite, and {name} is not at step {step}: the run has diverged")

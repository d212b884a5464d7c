"""The saved-tensor hooks that autograd applies now."""

from collections.abc import Callable

import torch
from torch import Tensor

Hooks = tuple[Callable[[Tensor], object], Callable[[object], Tensor]]


def innermost_hooks() -> Hooks | None:
    """The pack and the unpack hook in force in this thread. torch has no public name for them."""
    hooks: Hooks | None = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks

"""Registering an operator of the namespace `videonorm` with torch.library."""

from collections.abc import Callable
from typing import Any

import torch

LIBRARY = torch.library.Library("videonorm", "FRAGMENT")  # type: ignore[no-untyped-call]


def register(
    schema: str,
    *,
    cpu: Callable[..., Any],
    cuda: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
) -> None:
    """Define an operator and all that torch asks of it.

    There is no autocast rule: under autocast an operator gets its arguments as they are, like batch norm.

    Args:
        schema: as in ``torch.library.Library.define``.
        cpu, cuda: the implementations; a tensor's device chooses between them.
        fake: shapes, dtypes and strides of the results, without values.
        backward, setup_context: as in ``torch.library.register_autograd``.
    """
    LIBRARY.define(schema)  # type: ignore[no-untyped-call]
    name = schema[: schema.index("(")]
    LIBRARY.impl(name, cpu, "CPU")  # type: ignore[no-untyped-call]
    LIBRARY.impl(name, cuda, "CUDA")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"videonorm::{name}", fake, lib=LIBRARY)
    torch.library.register_autograd(f"videonorm::{name}", backward, setup_context=setup_context, lib=LIBRARY)

"""Longer clips or larger batches: what a GPU's frames are best spent on, for each normalization."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videonorm.kernels.warmup import warmup as warmup

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "warmup":  # at its first use: it needs torch, which `videonorm --help` does not
        from videonorm.kernels.warmup import warmup

        return warmup
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""CUDA C++ kernels: their files, the sequences of launches that make an operator of them, what runs those.

A kernel file is compiled by NVRTC at its first use (``compiler``), for the GPU that asks (``gpu``).
"""

from videonorm.kernels import group_norm, weight_standardize
from videonorm.kernels.unit import Unit


def units() -> list[Unit]:
    """Every variant of every kernel file."""
    return [*group_norm.units(), *weight_standardize.units()]

"""What a kernel is to the launch sequences: a unit to compile, and a machine that runs it."""

import ctypes
from typing import NamedTuple, Protocol

import torch

from videonorm.kernels.counters import Counters

SCALARS = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
"""The types of scalar.cuh."""


class KernelError(RuntimeError):
    """Kernels cannot be had here; the message says why."""


class Unit(NamedTuple):
    """One compilation: a kernel file of this folder and its macros. All its kernels are in one cubin."""

    source: str  # "group_norm.cu"; an absolute path is taken as it is
    macros: tuple[tuple[str, str], ...]  # (("SCALAR", "bfloat16"), ("VECTOR", "8"), ...)

    def __str__(self) -> str:
        return " ".join([self.source, *(f"{name}={value}" for name, value in self.macros)])


class Machine(Protocol):
    """What runs kernels: a GPU, or in tests the CPU."""

    @property
    def multiprocessors(self) -> int: ...

    def launch(
        self, unit: Unit, kernel: str, grid: int, block: int, shared_bytes: int, params: ctypes.Structure
    ) -> None:
        """Run `grid` blocks of `block` threads, each with `shared_bytes` bytes of dynamic shared memory.

        `params` is the kernel's one argument, passed by value. Returns without waiting for the kernel.
        """

    def counters(self, number: int) -> Counters:
        """At least `number` counters for the next launch, which must leave them 0."""

"""Memory that one process fills and another reads, used again and again.

Fresh shared memory costs more than the batch that is put into it: the system clears every page, on both
sides. Here a buffer goes back to its owner when the last tensor that shows it is gone.
"""

import math
import os
import weakref
from typing import NamedTuple

import torch
from torch import Tensor

_HEADER = 64  # bytes; the first is 1 while the buffer is on its way or in use
_SPARE = 3  # free buffers that are kept
_GRAIN = 2**20  # bytes that sizes are rounded up to, so that a slightly larger batch fits too


class Parcel(NamedTuple):
    """A tensor under way."""

    owner: int  # its process
    number: int  # of the buffer
    shape: tuple[int, ...]
    memory: Tensor | None  # the buffer itself, sent along the first time
    kept: set[int]  # the buffers sent so far that may be used again


class Outbox:
    """The buffers of a process that sends."""

    def __init__(self) -> None:
        self._buffers: dict[int, Tensor] = {}
        self._made = 0
        self._taken: list[int] = []  # and not posted yet
        self._known: set[int] = set()  # to the receiver

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """An uninitialized uint8 tensor in a buffer. The one made last is for ``post``; it frees others."""
        size = math.prod(shape)
        free = sorted((b.numel(), number) for number, b in self._buffers.items() if not b[0])
        fitting = next((number for capacity, number in free if capacity >= size + _HEADER), None)
        for _, number in free[: max(len(free) - _SPARE, 0)]:  # the smallest
            if number != fitting:
                del self._buffers[number]
        if fitting is None:
            fitting, self._made = self._made, self._made + 1
            capacity = -(-(size + _HEADER) // _GRAIN) * _GRAIN
            # As torch's own collate does in a worker; share_memory_() would copy what is not there yet.
            storage = torch.UntypedStorage._new_shared(capacity)  # type: ignore[no-untyped-call]
            self._buffers[fitting] = torch.empty(0, dtype=torch.uint8).set_(storage)
        self._taken.append(fitting)
        self._buffers[fitting][0] = 1
        return self._buffers[fitting][_HEADER : _HEADER + size].view(shape)

    def post(self, tensor: Tensor) -> Parcel:
        """Pack the tensor that ``empty`` made last, or the first rows of it."""
        *others, number = self._taken
        for other in others:
            self._buffers[other][0] = 0
        self._taken = []
        memory = None if number in self._known else self._buffers[number]
        self._known = {number, *self._known} & self._buffers.keys()
        return Parcel(os.getpid(), number, tuple(tensor.shape), memory, self._known)


class Inbox:
    """The buffers that a process has received, of any number of senders."""

    def __init__(self) -> None:
        self._buffers: dict[int, dict[int, Tensor]] = {}  # by owner and number

    def open(self, parcel: Parcel) -> Tensor:
        """The tensor, without a copy. Its buffer is kept from its owner as long as any view of it lives."""
        if parcel.owner not in self._buffers:
            self._forget_the_dead()
        known = self._buffers.get(parcel.owner, {})
        buffer = known[parcel.number] if parcel.memory is None else parcel.memory
        known = {number: known[number] for number in parcel.kept & known.keys()}
        self._buffers[parcel.owner] = {**known, parcel.number: buffer}
        shown = buffer.numpy()[_HEADER : _HEADER + math.prod(parcel.shape)].reshape(parcel.shape)
        # A tensor of its own storage, which holds `shown`: when it goes, so do all views.
        weakref.finalize(shown, buffer.__setitem__, 0, 0).atexit = False
        return torch.from_numpy(shown)

    def _forget_the_dead(self) -> None:
        for owner in list(self._buffers):
            try:
                os.kill(owner, 0)
            except ProcessLookupError:
                del self._buffers[owner]

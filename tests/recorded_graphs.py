"""CUDA graphs on a CPU: operations are recorded as they are dispatched, and a replay carries them out again.

As in a capture, a tensor that a recorded operation makes keeps its place, and every replay writes to it. And
nothing has been computed: what was written to tensors from before is put back, as are random numbers.
"""

from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RecordedGraph:
    def __init__(self):
        self.operations = []

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, made in self.operations:
            again = tree_leaves(function(*args, **kwargs))
            for old, new in zip(made, again, strict=True):
                if (
                    isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr()
                ):  # no view, not in place
                    old.copy_(new)


class _Recording(TorchDispatchMode):
    def __init__(self, graph):
        super().__init__()
        self.graph = graph
        self.before, self.made = {}, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):  # some write without a word of it in their schema
            if isinstance(value, torch.Tensor) and id(value) not in self.made:
                self.before.setdefault(id(value), (value, value.detach().clone()))
        outputs = function(*args, **kwargs)
        made = tree_leaves(outputs)
        self.made |= {id(value) for value in made} - self.before.keys()
        self.graph.operations.append((function, args, kwargs, made))
        return outputs

    def undo(self):
        for value, before in self.before.values():
            with torch.autograd._unsafe_preserve_version_counter(value):
                value.detach().copy_(before)


@contextmanager
def recording(graph, pool=None, capture_error_mode="global"):
    assert capture_error_mode == "thread_local"  # beside a thread that pins memory
    with torch.random.fork_rng([]), _Recording(graph) as mode:
        yield
    mode.undo()


def stand_in(monkeypatch):
    """For ``torch.cuda``'s graphs."""
    fakes = SimpleNamespace(CUDAGraph=RecordedGraph, graph=recording, graph_pool_handle=lambda: None)
    for name, fake in vars(fakes).items():
        monkeypatch.setattr(torch.cuda, name, fake)

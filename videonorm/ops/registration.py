"""Registering an operator of the namespace `videonorm` with torch.library; choosing what runs on a GPU."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Literal, NoReturn, get_args

import torch
from torch import Tensor
from torch._ops import OpOverload

from videonorm.kernels.gpu import KernelError, gpu

LIBRARY = torch.library.Library("videonorm", "FRAGMENT")  # type: ignore[no-untyped-call]

DECOMPOSITIONS: dict[OpOverload, Callable[..., Any]] = {}
"""Each operator of ours in torch's own, for ``torch.export.ExportedProgram.run_decompositions``."""

Implementation = Literal["auto", "cuda", "reference"]

_on_cuda: dict[str, Callable[..., Any]] = {}  # what the dispatcher runs for CUDA tensors, by operator
_chosen: Implementation = "auto"
_without_kernels: set[torch.device] = set()


def use(implementation: Implementation) -> AbstractContextManager[Any]:
    """Choose what the operators run on CUDA tensors, for the whole process and from the next call on.

    As the head of a `with` statement the choice ends with it; as a plain call it stays.

    Args:
        implementation: "auto" (the default) runs the kernels, and where they cannot be had the PyTorch
            reference, which one warning says and explains; "cuda" makes that an error; "reference" never runs
            the kernels. Tensors of float64 always go to the reference, as that dtype is for
            checking; so do empty ones.
    """
    if implementation not in get_args(Implementation):
        raise ValueError(f"implementation ({implementation!r}) must be one of {get_args(Implementation)}")
    undo = ExitStack()
    undo.callback(_choose, _chosen)
    _choose(implementation)
    return undo


def _choose(implementation: Implementation) -> None:
    global _chosen
    _chosen = implementation


def register(
    name: str,
    reference: Callable[..., Any],
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
        name: in ``torch.ops.videonorm``.
        reference: the definition in torch's own operators. Its annotated signature is the schema, with a
            tensor, or a list of tensors, in front; it is the operator's decomposition; and it is what runs on
            CUDA tensors in place of the kernels: see ``use``.
        cpu: the implementation for CPU tensors.
        cuda: the kernels, called with the Gpu in front of the arguments.
        fake: shapes, dtypes and strides of the results, without values.
        backward, setup_context: as in ``torch.library.register_autograd``.
    """

    def on_cuda(*args: Any) -> Any:
        first = args[0] if isinstance(args[0], Tensor) else args[0][0]
        if _chosen == "reference" or any(map(_is_float64, args)) or not first.numel():
            return reference(*args)
        device = first.device
        # A device is asked once: a compilation that fails takes a second, and would fail again.
        if _chosen == "auto" and device in _without_kernels:
            return reference(*args)
        try:
            return cuda(gpu(device), *args)
        except KernelError as error:
            if _chosen == "cuda":
                raise
            if not _without_kernels:
                warnings.warn(f"PyTorch operations run instead of the CUDA kernels: {error}", stacklevel=2)
            _without_kernels.add(device)
            return reference(*args)

    schema = torch.library.infer_schema(reference, mutates_args=(), op_name=name)
    LIBRARY.define(schema)  # type: ignore[no-untyped-call]
    LIBRARY.impl(name, cpu, "CPU")  # type: ignore[no-untyped-call]
    LIBRARY.impl(name, on_cuda, "CUDA")  # type: ignore[no-untyped-call]
    _on_cuda[name] = on_cuda
    torch.library.register_fake(f"videonorm::{name}", fake, lib=LIBRARY)
    if "Tensor[]" in schema:  # of whose lists torch.autograd.Function sees nothing
        torch.library.register_autograd(
            f"videonorm::{name}", backward, setup_context=setup_context, lib=LIBRARY
        )
    else:
        LIBRARY.impl(name, _differentiable(name, backward, setup_context), "Autograd")  # type: ignore[no-untyped-call]
    DECOMPOSITIONS[getattr(torch.ops.videonorm, name).default] = reference


@contextmanager
def cpu_as_cuda() -> Iterator[None]:
    """In this context CPU tensors take the way of CUDA tensors, to `kernels.gpu`'s Gpu of device 0."""
    library = torch.library.Library("videonorm", "IMPL")  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():  # torch warns of what is asked for here
            warnings.simplefilter("ignore")
            for name, on_cuda in _on_cuda.items():
                library.impl(name, on_cuda, "CPU", allow_override=True)  # type: ignore[no-untyped-call]
        yield
    finally:
        library._destroy()  # type: ignore[no-untyped-call]


def needs_reference() -> bool:
    """Whether derivatives are asked for that the operators do not have: by torch.func or forward-mode AD.

    torch.func's transforms (vmap, grad, jvp, ...) and dual levels take the references, which have them all.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def refuse(message: str) -> Callable[..., Any]:
    """The `backward` of an operator that has none."""

    def backward(*_: Any) -> NoReturn:
        raise NotImplementedError(message)

    return backward


def _differentiable(
    name: str, backward: Callable[..., Any], setup_context: Callable[..., None] | None
) -> Callable[..., Any]:
    """What torch.library.register_autograd makes, in half the time: a network calls a norm fifty times."""
    operator = getattr(torch.ops.videonorm, name).default

    def forward(ctx: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = operator(*args)
        if setup_context is not None:
            setup_context(ctx, args, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    node: Any = type(name, (torch.autograd.Function,), methods)  # the graph shows its name

    def call(*args: Any) -> Any:
        if torch.is_grad_enabled():
            return node.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*args)

    return call


def _is_float64(argument: Any) -> bool:
    if isinstance(argument, list):
        return any(map(_is_float64, argument))
    return argument is torch.float64 or (isinstance(argument, Tensor) and argument.dtype is torch.float64)

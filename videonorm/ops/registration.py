"""Registering an operator of the namespace `videonorm` with torch.library; choosing what runs on a GPU."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import chain, islice
from operator import attrgetter
from typing import Any, Literal, NoReturn, get_args

import torch
from torch import Tensor, nn
from torch._C import (
    _are_functorch_transforms_active,
    _AutoDispatchBelowAutograd,
    _get_tracing_state,
    _is_torch_function_mode_enabled,
    _len_torch_dispatch_stack,
)
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._ops import OpOverload
from torch.autograd import forward_ad

from videonorm.kernels.gpu import KernelError, gpu

LIBRARY = torch.library.Library("videonorm", "FRAGMENT")  # type: ignore[no-untyped-call]

DECOMPOSITIONS: dict[OpOverload, Callable[..., Any]] = {}
"""Each operator of ours in torch's own, for ``torch.export.ExportedProgram.run_decompositions``."""

Implementation = Literal["auto", "cuda", "reference"]

_chosen: Implementation = "auto"
_operators: list["Operator"] = []
_TENSORS = Tensor, nn.Parameter
_without_kernels: set[torch.device] = set()
_dtype = attrgetter("dtype")


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
) -> "Operator":
    """Define an operator and all that torch asks of it. Returns the way to call it.

    There is no autocast rule: under autocast an operator gets its arguments as they are, like batch norm.

    Args:
        name: in ``torch.ops.videonorm``.
        reference: the definition in torch's own operators. Its annotated signature is the schema: in front
            tensors, or lists of them and then tensors; a list of tensors at most as the first result. It is
            the operator's decomposition; and it is what runs on CUDA tensors in place of the kernels: see
            ``use``.
        cpu: the implementation for CPU tensors.
        cuda: the kernels, called with the Gpu in front of the arguments.
        fake: shapes, dtypes and strides of the results, without values.
        backward, setup_context: as in ``torch.library.register_autograd``.
    """

    def on_cuda(*args: Any) -> Any:
        return reference(*args) if _has_float64(args) else kernels(*args)

    def kernels(*args: Any) -> Any:
        first = args[0] if isinstance(args[0], Tensor) else args[0][0]
        if _chosen == "reference" or not first.numel():
            return reference(*args)
        device = first.device
        # A device is asked once: a compilation that fails takes a second, and would fail again.
        if _without_kernels and _chosen == "auto" and device in _without_kernels:
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
    torch.library.register_fake(f"videonorm::{name}", fake, lib=LIBRARY)
    overload = getattr(torch.ops.videonorm, name).default
    DECOMPOSITIONS[overload] = reference
    operator = Operator(overload, backward, setup_context, cpu, on_cuda, kernels)

    def below_autograd(*args: Any) -> Any:
        with _AutoDispatchBelowAutograd():
            return overload(*args)

    LIBRARY.impl(name, operator.differentiable(below_autograd), "Autograd")  # type: ignore[no-untyped-call]
    _operators.append(operator)
    return operator


class Operator:
    """An operator of ours, to be called as ``torch.ops.videonorm``'s is, with all arguments by position.

    It does the same in less time where nothing but autograd would come between the call and the
    implementation: no mode, transform, trace or compiler, and no tensor but torch's own. There the dispatcher
    is left out, which converts arguments and results to C++ and back, twice.

    Attributes:
        cpu, cuda: the implementations.

    Args:
        kernels: the part of `cuda` for tensors none of which is float64.
        others: as `register` has them.
    """

    def __init__(
        self,
        overload: OpOverload,
        backward: Callable[..., Any],
        setup_context: Callable[..., None] | None,
        cpu: Callable[..., Any],
        cuda: Callable[..., Any],
        kernels: Callable[..., Any],
    ) -> None:
        kinds = [str(argument.type) for argument in overload._schema.arguments]
        self._lists = kinds.count("List[Tensor]")
        end = self._lists + kinds.count("Tensor") + kinds.count("Optional[Tensor]")
        # Of the mean on, they are results of an operator of ours, which has looked at all that came before.
        names = [argument.name for argument in overload._schema.arguments[:end]]
        self._tensors = slice(self._lists, names.index("mean") if "mean" in names else end)
        self._other_results = len(overload._schema.returns) - 1
        self._backward, self._setup_context = backward, setup_context
        self._overload = overload
        self.cpu, self.cuda = cpu, cuda
        self._on_cpu = self.differentiable(cpu)
        # With lists goes a dtype, which may be float64, too.
        self._on_cuda = self.differentiable(cuda if self._lists else kernels)

    def __call__(self, *args: Any) -> Any:
        if (
            torch.compiler.is_compiling()
            or _len_torch_dispatch_stack()
            or _is_torch_function_mode_enabled()
            or _are_functorch_transforms_active()
            or _get_tracing_state() is not None
        ):
            return self._overload(*args)
        tensors = args[self._tensors]
        for tensor in chain(*args[: self._lists], tensors) if self._lists else tensors:
            if tensor is not None and (
                type(tensor) not in _TENSORS
                or tensor.is_neg()  # its memory has the other sign
                or is_functorch_wrapped_tensor(tensor)  # it has left its transform
            ):
                return self._overload(*args)
        first = args[0][0] if self._lists else args[0]
        if first.dtype is torch.float64:  # for the reference
            return self._overload(*args)
        if first.is_cuda:
            return self._on_cuda(*args)
        return self._on_cpu(*args) if first.is_cpu else self._overload(*args)

    def differentiable(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run` with a node of autograd around it, which runs it without gradients.

        That of torch.library.register_autograd takes twice the time, and a network calls a norm fifty times.
        """
        setup_context, lists, other_results = self._setup_context, self._lists, self._other_results

        def forward(ctx: Any, *args: Any) -> Any:
            output = run(*args)
            if setup_context is not None:
                setup_context(ctx, args, output)
            return output

        # A node of torch.autograd.Function sees no tensors in lists: these come one by one.
        def forward_of_lists(ctx: Any, lengths: Sequence[int], *args: Any) -> tuple[Tensor, ...]:
            rest = iter(args)
            results, *others = forward(ctx, *[list(islice(rest, length)) for length in lengths], *rest)
            return *results, *others

        def backward_of_lists(ctx: Any, *grads: Any) -> tuple[Any, ...]:
            count = len(grads) - other_results
            result = self._backward(ctx, list(grads[:count]), *grads[count:])
            return None, *chain(*result[:lists]), *result[lists:]

        methods = (forward_of_lists, backward_of_lists) if lists else (forward, self._backward)
        members = dict(zip(("forward", "backward"), map(staticmethod, methods), strict=True))
        # The graph shows its name.
        node: Any = type(self._overload._opname, (torch.autograd.Function,), members)
        apply = node.apply

        def call(*args: Any) -> Any:
            # A node refuses tangents; beneath autograd they would be lost.
            if not torch.is_grad_enabled() and forward_ad._current_level < 0:
                return run(*args)
            if not lists:
                return apply(*args)
            lengths = tuple(map(len, args[:lists]))
            results = apply(lengths, *chain(*args[:lists]), *args[lists:])
            count = len(results) - other_results
            return list(results[:count]), *results[count:]

        return call

    @contextmanager
    def cpu_as_cuda(self) -> Iterator[None]:
        """In this context the operator takes CPU tensors the way of CUDA tensors."""
        library = torch.library.Library("videonorm", "IMPL")  # type: ignore[no-untyped-call]
        on_cpu, self._on_cpu = self._on_cpu, self._on_cuda
        try:
            with warnings.catch_warnings():  # torch warns of what is asked for here
                warnings.simplefilter("ignore")
                library.impl(self._overload, self.cuda, "CPU", allow_override=True)  # type: ignore[no-untyped-call]
            yield
        finally:
            self._on_cpu = on_cpu
            library._destroy()  # type: ignore[no-untyped-call]


@contextmanager
def cpu_as_cuda() -> Iterator[None]:
    """In this context CPU tensors take the way of CUDA tensors, to `kernels.gpu`'s Gpu of their device."""
    with ExitStack() as stack:
        for operator in _operators:
            stack.enter_context(operator.cpu_as_cuda())
        yield


def needs_reference() -> bool:
    """Whether derivatives are asked for that the operators do not have: by torch.func or forward-mode AD.

    torch.func's transforms (vmap, grad, jvp, ...) and dual levels take the references, which have them all.
    """
    if torch.compiler.is_compiling():
        return False
    return _are_functorch_transforms_active() or forward_ad._current_level >= 0


def refuse(message: str) -> Callable[..., Any]:
    """The `backward` of an operator that has none."""

    def backward(*_: Any) -> NoReturn:
        raise NotImplementedError(message)

    return backward


def _has_float64(arguments: Sequence[Any]) -> bool:
    for argument in arguments:
        if type(argument) is list and argument and isinstance(argument[0], Tensor):
            if torch.float64 in map(_dtype, argument):  # a third of the time of asking one by one
                return True
        elif getattr(argument, "dtype", argument) is torch.float64:
            return True
    return False

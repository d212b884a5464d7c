"""The operators of `videonorm bench kernels`: ours and their peers, over sets of inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from videonorm.bench.names import NUM_GROUPS
from videonorm.bench.sites import Stages
from videonorm.bench.timing import Clock, Contender
from videonorm.ops.group_norm import group_norm
from videonorm.ops.weight_standardize import Formula, weight_standardize, weight_standardize_layers

EPS = 1e-5
WS_EPS = 1e-10

NormFunction = Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]  # of x, residual, weight, bias


def norm_contenders(
    names: Sequence[str],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    add: bool,
    relu: bool,
    clock: Clock,
) -> tuple[list[Contender], int]:
    """Those of `names` that normalize tensors of `dtype`, and the number of sets of inputs they have."""
    device, num_channels = clock.device, shape[1]

    def random() -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device, memory_format=memory_format).normal_()

    first = random().requires_grad_()
    num_sets = clock.num_sets(first.numel() * first.itemsize)
    xs = [first, *(random().requires_grad_() for _ in range(num_sets - 1))]
    residuals = [random().requires_grad_() if add else None for _ in xs]
    grads = [random() for _ in xs]
    wide = [torch.rand(num_channels, device=device).requires_grad_() for _ in ("weight", "bias")]
    narrow = [parameter.detach().to(dtype).requires_grad_() for parameter in wide]
    running = [torch.zeros(num_channels, device=device), torch.ones(num_channels, device=device)]

    def ours(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        return group_norm(x, weight, bias, NUM_GROUPS, EPS, residual, relu)

    def bn(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        y = F.batch_norm(x, running[0], running[1], weight, bias, True, 0.1, EPS)
        return add_and_relu(y, residual)

    def torch_gn(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        y = add_and_relu(F.group_norm(x, NUM_GROUPS, weight, bias, EPS), residual)
        if y.dtype == dtype and y.is_contiguous(memory_format=memory_format):
            return y
        return y.to(dtype=dtype, memory_format=memory_format)

    def torch_gn_autocast(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype):
            return torch_gn(x, residual, weight, bias)

    def add_and_relu(y: Tensor, residual: Tensor | None) -> Tensor:
        if residual is not None:
            y = y + residual
        return F.relu(y, inplace=True) if relu else y

    functions: dict[str, tuple[NormFunction, list[Tensor]]] = {
        "ours": (ours, wide),
        "bn": (bn, wide),
        "torch_gn": (torch_gn, narrow),
        "torch_gn_autocast": (torch_gn_autocast, wide),
    }
    if "torch_compile" in names:
        functions["torch_compile"] = (torch.compile(torch_gn, dynamic=False), narrow)
    if dtype == torch.float32:
        del functions["torch_gn_autocast"]

    def contender(name: str) -> Contender:
        function, parameters = functions[name]

        def forward(number: int) -> Tensor:
            return function(xs[number], residuals[number], *parameters)

        def backward(y: Tensor, number: int) -> object:
            leaves = [xs[number], *parameters, residuals[number]]
            return torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], grads[number])

        return Contender(name, forward, backward)

    contenders = [contender(name) for name in functions if name in names]
    if "copy" in names:
        contenders.append(Contender("copy", lambda number: xs[number].detach().clone()))
    return contenders, num_sets


def filter_contenders(
    names: Sequence[str],
    stages: Stages,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    clock: Clock,
) -> list[Contender]:
    """Those of `names` that standardize filters. There is one set of inputs: all weights of a network."""

    def random(size: torch.Size, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, device=clock.device, memory_format=memory_format).normal_()

    weights = [[random(size, torch.float32).requires_grad_() for size in stage] for stage in stages]
    leaves = [weight for stage in weights for weight in stage]
    grads = [random(weight.shape, dtype) for weight in leaves]

    formula = Formula(eps=WS_EPS)

    def ours_grouped() -> list[Tensor]:
        results: list[Tensor] = []
        for stage in weights:
            results += weight_standardize_layers(stage, [], [formula] * len(stage), dtype)
        return results

    def ours() -> list[Tensor]:
        return [weight_standardize(weight, None, formula, dtype) for weight in leaves]

    def timm() -> list[Tensor]:
        def standardize(weight: Tensor) -> Tensor:
            filters = weight.reshape(1, len(weight), -1)
            w_hat = F.batch_norm(filters, None, None, training=True, momentum=0.0, eps=WS_EPS)
            return w_hat.reshape_as(weight).to(dtype)

        return [standardize(weight) for weight in leaves]

    def var_mean() -> list[Tensor]:
        def standardize(weight: Tensor) -> Tensor:
            var, mean = torch.var_mean(weight, dim=(1, 2, 3, 4), correction=0, keepdim=True)
            return ((weight - mean) / torch.sqrt(var + WS_EPS)).to(dtype)

        return [standardize(weight) for weight in leaves]

    def contender(name: str, function: Callable[[], list[Tensor]]) -> Contender:
        def backward(results: Any, _number: int) -> object:
            return torch.autograd.grad(results, leaves, grads)

        return Contender(name, lambda _number: function(), backward)

    functions = {"ours_grouped": ours_grouped, "ours": ours, "timm": timm, "var_mean": var_mean}
    return [contender(name, function) for name, function in functions.items() if name in names]

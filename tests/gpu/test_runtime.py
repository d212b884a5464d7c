"""How the kernels live with PyTorch: streams, devices, graphs, the compiler."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import videonorm
from videonorm.kernels.gpu import gpu
from videonorm.layers import GroupNorm3d, WSConv3d
from videonorm.ops.group_norm import group_norm


def make_input(dtype: torch.dtype = torch.float32, device: str = "cuda") -> Tensor:
    x = 30 + torch.randn(2, 16, 4, 9, 9, device=device)
    return x.to(dtype).contiguous(memory_format=torch.channels_last_3d)


@pytest.fixture
def model() -> nn.Module:
    model = nn.Sequential(WSConv3d(16, 32, 3, padding=1), GroupNorm3d(32, 8, activation="relu"))
    return model.cuda().to(memory_format=torch.channels_last_3d)


def test_graph_after_warmup(model):
    x = make_input()
    videonorm.warmup(model, x)
    parameters = list(model.parameters())
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # PyTorch's own warm-up before a capture
            torch.autograd.grad(model(x).sum(), parameters)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        y = model(x)
        grads = torch.autograd.grad(y.square().sum(), parameters)
    x.copy_(make_input() * 2)
    graph.replay()
    want = model(x)
    torch.testing.assert_close(y, want)
    for got, expected in zip(grads, torch.autograd.grad(want.square().sum(), parameters), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_first_use_in_a_capture_is_an_error(monkeypatch):
    x = make_input()
    monkeypatch.setattr(gpu(x.device), "_functions", {})  # as if no kernel had been used yet
    with (
        pytest.raises(RuntimeError, match=r"call videonorm\.warmup\(model, x\) before the capture"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        group_norm(x, None, None, 4)
    torch.cuda.synchronize()
    torch.testing.assert_close(
        group_norm(x, None, None, 4).double(), F.group_norm(x.double(), 4), atol=1e-3, rtol=0
    )


def passes(x: Tensor) -> list[Tensor]:
    """y and all gradients of a norm whose blocks wait for each other in several columns and samples."""
    weight = torch.linspace(-1, 1, x.shape[1], device=x.device, requires_grad=True)
    leaves = [x.detach().requires_grad_(), weight]
    y = group_norm(*leaves, None, 4, relu=True)
    return [y.detach(), *torch.autograd.grad(y, leaves, x)]


def wide_inputs() -> list[Tensor]:
    shapes = ((3, 640, 4, 28, 28), (2, 54, 4, 30, 30))
    return [torch.randn(s, device="cuda").contiguous(memory_format=torch.channels_last_3d) for s in shapes]


def test_streams_count_apart():
    """Two at once, each with launches whose blocks run among the other's."""
    inputs, streams = wide_inputs(), [torch.cuda.Stream() for _ in range(2)]
    want = [passes(x) for x in inputs]
    torch.cuda.synchronize()
    got: list[list[list[Tensor]]] = [[], []]
    for _ in range(20):
        for results, x, stream in zip(got, inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                results.append(passes(x))
    torch.cuda.synchronize()
    for results, wanted in zip(got, want, strict=True):
        assert all(all(map(torch.equal, result, wanted)) for result in results)


def test_graphs_count_apart():
    """Two graphs of one stream's capture, replayed on two streams at once, and eager launches on a third."""
    inputs, streams = wide_inputs(), [torch.cuda.Stream() for _ in range(3)]
    want = [passes(x) for x in inputs]
    torch.cuda.synchronize()
    graphs = [torch.cuda.CUDAGraph() for _ in inputs]
    got = []
    for graph, x in zip(graphs, inputs, strict=True):
        with torch.cuda.graph(graph):
            got.append(passes(x))
    for _ in range(20):
        for graph, stream in zip(graphs, streams, strict=False):
            with torch.cuda.stream(stream):
                graph.replay()
        with torch.cuda.stream(streams[2]):
            eager = passes(inputs[0])
    torch.cuda.synchronize()
    for results, wanted in zip([*got, eager], [*want, want[0]], strict=True):
        assert all(map(torch.equal, results, wanted))


def test_inductor(model):
    x = make_input().requires_grad_()
    compiled = torch.compile(model, fullgraph=True)
    leaves = [x, *model.parameters()]
    got, want = compiled(x), model(x)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    grads = [torch.autograd.grad(y.square().sum(), leaves) for y in (got, want)]
    for grad, expected in zip(*grads, strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))


def test_the_current_stream():
    """What another stream has queued before, our kernels there must wait for."""
    slow = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    source, x = make_input(), torch.zeros_like(make_input())
    want = group_norm(source, None, None, 4)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(50):
            slow.copy_(slow.roll(1))
        x.copy_(source)
        y = group_norm(x, None, None, 4)
    torch.cuda.synchronize()
    assert torch.equal(y, want)


@pytest.fixture
def sync_debug_mode() -> Iterator[Callable[[str], None]]:
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


def test_small_nothing_waits_for_the_device(model, sync_debug_mode):
    x = make_input().requires_grad_()
    videonorm.warmup(model, x)
    grad_y = torch.randn_like(model(x))
    sync_debug_mode("error")
    torch.autograd.grad(model(x), [x, *model.parameters()], grad_y)


def test_a_device_that_is_not_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x = make_input(device="cuda:1").requires_grad_()
    assert torch.cuda.current_device() == 0
    y = group_norm(x, None, None, 4, relu=True)
    want = F.relu(F.group_norm(x, 4))
    torch.testing.assert_close(y, want, atol=1e-4, rtol=1e-4)
    (got,), (expected,) = (torch.autograd.grad(z.square().sum(), x) for z in (y, want))
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)
    assert got.device == x.device


def test_small_float64_is_computed_in_float64():
    x = make_input(torch.float64)
    torch.testing.assert_close(group_norm(x, None, None, 4), F.group_norm(x, 4), rtol=1e-10, atol=1e-10)


def test_small_autocast_gives_the_dtype_of_x(model):
    with torch.autocast("cuda", torch.bfloat16):
        y = model(make_input())
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last_3d)

import pytest
import torch

from videonorm.layers import MovingAverageBatchNorm3d

SITES = (0, 2, 3, 4)
OPTIONS = {"num_batches": 3, "momentum": 0.1, "warmup": 6, "renorm_warmup": 9, "r_max": 1.05}


def make_batches(count: int, clips: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """x, of another spread in each batch, and the gradient of y."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 2, clips, 3, 2, 4, 4, dtype=torch.float64, generator=generator)
    return [((1 + 0.2 * index) * x + 0.1, grad_y) for index, (x, grad_y) in enumerate(noise)]


def make_layer(**options) -> MovingAverageBatchNorm3d:
    layer = MovingAverageBatchNorm3d(3, **OPTIONS | options).double()
    torch.nn.init.normal_(layer.weight, 1.0, generator=torch.Generator().manual_seed(1))
    torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(2))
    return layer


def train(layer, x, grad_y):
    """y and its gradients by x, weight and bias."""
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    return [y, *torch.autograd.grad(y, [leaf, layer.weight, layer.bias], grad_y)]


class OfThePaper:
    """Forward and backward as formulas, batch by batch; the lists have all batches that there were."""

    def __init__(self, weight, bias):
        self.weight, self.bias = (value.detach().view(-1, 1, 1, 1) for value in (weight, bias))
        self.squares, self.gradients, self.running = [], [], torch.ones(3).double().view(-1, 1, 1, 1)

    def train(self, x, grad_y):
        def of_batches(values):
            moves = len(values) > 3 and len(values) >= 6
            return sum(values[-3:]) / 3 if moves else values[-1]

        self.squares.append((x * x).mean(SITES, keepdim=True)[0])
        square = of_batches(self.squares)
        z = x / (square + 1e-5).sqrt()
        r = torch.ones_like(square)
        if len(self.squares) > 9:
            r = ((square + 1e-5).sqrt() / (self.running + 1e-5).sqrt()).clamp(1 / 1.05, 1.05)
        y = self.weight * r * z + self.bias
        self.running = 0.9 * self.running + 0.1 * square
        g = grad_y * self.weight * r
        self.gradients.append((g * z).mean(SITES, keepdim=True)[0])
        grad_x = (g - z * of_batches(self.gradients)) / (square + 1e-5).sqrt()
        return [y, grad_x, (grad_y * r * z).sum(SITES), grad_y.sum(SITES)]


@pytest.mark.parametrize("clips", [1, 2])
def test_outputs_gradients_and_statistics_are_the_papers(clips):
    """Through both warm-ups and beyond, where r is clipped and where it is not."""
    layer = make_layer()
    reference = OfThePaper(layer.weight, layer.bias)
    for x, grad_y in make_batches(14, clips) + make_batches(8, clips):
        got, want = train(layer, x, grad_y), reference.train(x, grad_y)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(layer.running_square, reference.running.flatten())
    evaluated = reference.weight * x / (reference.running + 1e-5).sqrt() + reference.bias
    torch.testing.assert_close(layer.eval()(x), evaluated)


def test_up_to_the_warm_up_the_gradient_is_the_derivative():
    layer = make_layer()
    (x, grad_y), *_ = make_batches(1)
    leaf = x.clone().requires_grad_()
    z = leaf / (leaf.square().mean(SITES, keepdim=True) + 1e-5).sqrt()
    y = layer.weight.view(-1, 1, 1, 1) * z + layer.bias.view(-1, 1, 1, 1)
    want = [y, *torch.autograd.grad(y, [leaf, layer.weight, layer.bias], grad_y)]
    torch.testing.assert_close(train(layer, x, grad_y), want)


def test_a_training_goes_on_exactly():
    batches, layer, other = make_batches(14), make_layer(), MovingAverageBatchNorm3d(3, **OPTIONS).double()
    for batch in batches[:8]:
        train(layer, *batch)
    other.load_state_dict(layer.state_dict())
    for batch in batches[8:]:
        assert all(map(torch.equal, train(layer, *batch), train(other, *batch)))
    assert all(map(torch.equal, layer.state_dict().values(), other.state_dict().values()))


def test_two_batches_before_one_backward_have_places_of_their_own():
    layer = make_layer(warmup=0, renorm_warmup=0)
    (x, grad_y), (other, grad_other), *_ = make_batches(2)
    outputs = [layer(x.requires_grad_()), layer(other.requires_grad_())]
    torch.autograd.backward(outputs, [grad_y, grad_other])
    assert layer.gradients[1].all() and layer.gradients[2].all() and not layer.gradients[0].any()


def test_evaluation_and_no_clips_leave_the_buffers():
    layer = make_layer()
    (x, grad_y), *_ = make_batches(1)
    train(layer, x, grad_y)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert layer(x[:0]).shape == x[:0].shape
    layer.eval()(x)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_errors():
    with pytest.raises(ValueError, match=r"num_batches \(0\) must be at least 1"):
        MovingAverageBatchNorm3d(3, 0)
    with pytest.raises(ValueError, match=r"r_max \(0.5\) must be at least 1"):
        MovingAverageBatchNorm3d(3, r_max=0.5)

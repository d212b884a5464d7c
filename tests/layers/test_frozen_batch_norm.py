import pytest
import torch

from videonorm.layers import BatchNorm3d, FrozenBatchNorm3d


@pytest.fixture
def x():
    return 30 + torch.randn(4, 6, 3, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def trained(x) -> BatchNorm3d:
    layer = BatchNorm3d(6, momentum=0.5)
    torch.nn.init.uniform_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    layer(x)
    return layer.eval()


@pytest.mark.parametrize("train_affine", [False, True])
def test_is_the_evaluated_batch_norm_also_in_training(x, trained, train_affine):
    frozen = FrozenBatchNorm3d(6, train_affine=train_affine).train()
    frozen.load_state_dict(trained.state_dict())
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    x.requires_grad_()
    got, want = frozen(x), trained(x)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        torch.autograd.grad(got.square().sum(), x), torch.autograd.grad(want.square().sum(), x)
    )
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())


def test_its_checkpoint_loads_into_batch_norm(trained):
    frozen = FrozenBatchNorm3d(6)
    trained.load_state_dict(frozen.state_dict())
    assert torch.equal(trained.running_var, torch.ones(6))


def test_parameters_only_with_train_affine():
    assert not list(FrozenBatchNorm3d(6).parameters())
    assert [name for name, _ in FrozenBatchNorm3d(6, train_affine=True).named_parameters()] == [
        "weight",
        "bias",
    ]


@pytest.mark.parametrize("train_affine, floats", [(False, 6), (True, 1)])
def test_saved_for_backward(x, train_affine, floats):
    """With fixed affine a scale for each of the 6 channels; else at least x."""
    frozen, saved = FrozenBatchNorm3d(6, train_affine=train_affine), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        frozen(x.requires_grad_())
    assert sum(saved) >= x.numel() if train_affine else sum(saved) == floats


def test_gradcheck():
    x = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(FrozenBatchNorm3d(3).double(), x)
    assert torch.autograd.gradgradcheck(FrozenBatchNorm3d(3).double(), x)

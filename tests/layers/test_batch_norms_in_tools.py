"""Tools that look for torch's batch norms must find ours, and must not put others in their place."""

import copy

import pytest
import torch
from fvcore.nn import precise_bn  # comes with pytorchvideo
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, update_bn

from videonorm.layers import (
    BatchChannelNorm3d,
    BatchNorm3d,
    FrozenBatchNorm3d,
    SubBatchNorm3d,
    SyncBatchNorm3d,
)
from videonorm.models import ResNet3d

BATCH_NORMS = {"bn": BatchNorm3d, "sub_bn": SubBatchNorm3d, "sync_bn": SyncBatchNorm3d}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(params=BATCH_NORMS)
def norm(request) -> type[BatchNorm3d]:
    return BATCH_NORMS[request.param]


def make_batches() -> list[Tensor]:
    """Three, of different means."""
    noise = torch.randn(3, 4, 3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return list(noise + torch.arange(3).view(-1, 1, 1, 1, 1, 1))


def make_model(norm) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 6, 1), norm(6), FrozenBatchNorm3d(6)).double()
    model(make_batches()[0] * 3)  # statistics of other clips, which the tools are to forget
    return model.eval()


def moments(model: nn.Module, batches: list[Tensor], num_parts: int) -> tuple[Tensor, Tensor]:
    """The mean and the unbiased variance, averaged over batches: of the union where a batch has parts."""
    parts = torch.stack([model[0](batch).unflatten(0, (num_parts, -1)) for batch in batches])
    values = parts.movedim(3, 2).flatten(3)  # batches, parts, channels, values
    mean = values.mean(3).mean(0)  # parts, channels
    return mean.mean(0), values.var(3).mean((0, 1)) + mean.var(0, correction=0)


def test_they_are_batch_norms_and_the_frozen_one_is_none(norm):
    assert isinstance(norm(6), nn.BatchNorm3d) and isinstance(norm(6), _BatchNorm)
    for statistics in ("batch", "estimated"):
        assert isinstance(BatchChannelNorm3d(6, 2, statistics=statistics).batch_norm, _BatchNorm)
    assert not isinstance(FrozenBatchNorm3d(6), _BatchNorm)


def test_update_bn(norm):
    model, batches = make_model(norm), make_batches()
    frozen = copy.deepcopy(model[2].state_dict())
    update_bn(batches, model)
    mean, var = moments(model, batches, getattr(model[1], "num_splits", 1))
    torch.testing.assert_close((model[1].running_mean, model[1].running_var), (mean, var))
    assert model[1].num_batches_tracked == 3 and model[1].momentum == 0.1 and not model[1].training
    assert all(torch.equal(value, frozen[key]) for key, value in model[2].state_dict().items())


def test_update_bn_of_estimated_statistics():
    """The first batch is all that there is: its variance is about its own mean, not about the initial 0."""
    layer = BatchChannelNorm3d(3, 3, statistics="estimated").double()
    batch = 30 + make_batches()[0]
    update_bn([batch], layer)
    channels = batch.transpose(0, 1).flatten(1)
    torch.testing.assert_close(layer.batch_norm.running_mean, channels.mean(1))
    torch.testing.assert_close(layer.batch_norm.running_var, channels.var(1, correction=0))


def test_averaged_models_average_them(norm):
    model, averaged = make_model(norm), AveragedModel(make_model(norm), use_buffers=True)
    averaged.update_parameters(model)
    model[1].running_mean += 2
    averaged.update_parameters(model)
    torch.testing.assert_close(averaged.module[1].running_mean, model[1].running_mean - 1)


def test_precise_batch_norm(norm):
    """fvcore's: a momentum of 1, each batch's statistics read from the layer, their mean written back."""
    model, batches = make_model(norm), make_batches()
    model.train()
    assert precise_bn.get_bn_modules(model) == [model[1]]
    precise_bn.update_bn_stats(model, batches, num_iters=3)
    values = torch.cat([model[0](batch) for batch in batches]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[1].running_mean, values.mean(1))
    assert model[1].momentum == 0.1
    torch.testing.assert_close(model[1].running_var, values.var(1), rtol=0.03, atol=0)


def test_a_hook_that_gives_back_the_input_alone_leaves_the_residual():
    """As that of precise batch norm does, on every batch norm."""
    model = ResNet3d(10, num_classes=5, width=4, zero_init_residual=False).eval()
    clips = torch.randn(2, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = model(clips)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(lambda module, inputs: (inputs[0],))
    assert torch.equal(model(clips), expected)


def test_finetuning_with_frozen_statistics(norm):
    """Lightning's BaseFinetuning sets what torch's layer heeds: the same outputs, statistics that stay."""
    model, batch = make_model(norm).train(), make_batches()[1]
    expected = model(batch)
    before = {name: getattr(model[1], name).clone() for name in STATISTICS}
    BaseFinetuning.freeze(model, train_bn=False)
    assert torch.equal(model(batch), expected)
    assert all(torch.equal(getattr(model[1], name), value) for name, value in before.items())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    BaseFinetuning.make_trainable(model)
    model(batch)
    assert model[1].num_batches_tracked == before["num_batches_tracked"] + 1


def test_finetuning_with_trained_batch_norms(norm):
    model = make_model(norm).train()
    BaseFinetuning.freeze(model, train_bn=True)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == ["1.weight", "1.bias"] and model[1].track_running_stats


@pytest.mark.parametrize("training", [True, False])
def test_functional_transforms_take_the_statistics_away(norm, training):
    model, batch = make_model(norm).train(training), make_batches()[0]
    values = model[0](batch).unflatten(0, (getattr(model[1], "num_splits", 1), -1)).movedim(2, 1)
    var, mean = torch.var_mean(values, (2, 3, 4, 5), correction=0, keepdim=True)
    expected = ((values - mean) / (var + 1e-5).sqrt()).movedim(1, 2).flatten(0, 1)
    torch.func.replace_all_batch_norm_modules_(model)
    torch.testing.assert_close(model[1](model[0](batch)), expected)


REFUSED = r"num_features \(6\) of \w+ must not be read to put another layer in its place"


@pytest.mark.parametrize("convert", [nn.SyncBatchNorm.convert_sync_batchnorm, TorchSyncBatchNorm().apply])
def test_torch_does_not_synchronize_what_it_would_take_residual_and_activation_from(norm, convert):
    model = nn.Sequential(norm(6, activation="relu"))
    with pytest.raises(TypeError, match=REFUSED):
        convert(model)
    assert type(model[0]) is norm
    frozen = nn.Sequential(FrozenBatchNorm3d(6))
    assert convert(frozen)[0] is frozen[0]

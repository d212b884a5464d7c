"""Precise statistics are the moments of all the values that a batch norm was given; nothing else changes."""

import copy
from functools import partial

import pytest
import torch
import torch.distributed as dist
from fvcore.nn import precise_bn  # comes with pytorchvideo
from torch import Tensor, nn

from videonorm import layers
from videonorm.layers import estimated_batch_norms, precise_statistics

BATCH_NORMS = {
    "bn": layers.BatchNorm3d,
    "sync_bn": layers.SyncBatchNorm3d,
    "batch_renorm": partial(layers.BatchRenorm3d, momentum=0.1),
    "torch": nn.BatchNorm3d,
    "bcn": partial(layers.BatchChannelNorm3d, num_groups=2),
    "bcn estimated": partial(layers.BatchChannelNorm3d, num_groups=2, statistics="estimated"),
}
STATISTICS = ("running_mean", "running_var")


def batches(*sizes: int) -> list[Tensor]:
    """Far from 0, each of another mean."""
    rng = torch.Generator().manual_seed(0)
    noise = [torch.randn(size, 3, 2, 4, 4, dtype=torch.float64, generator=rng) for size in sizes]
    return [30 + index + clips for index, clips in enumerate(noise)]


def make_model(norm) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 6, 1), norm(6), nn.Dropout(0.5), layers.FrozenBatchNorm3d(6)).double()
    model(batches(4)[0])  # statistics and a count from before
    return model.eval()


def estimate(model: nn.Module, of: list[Tensor]) -> None:
    with precise_statistics(model), torch.no_grad():
        for clips in of:
            model(clips)


@pytest.mark.parametrize("norm", BATCH_NORMS.values(), ids=BATCH_NORMS)
def test_they_are_the_moments_of_all_batches_together(norm):
    model = make_model(norm)
    before = copy.deepcopy(model.state_dict())
    (name, batch_norm), *others = estimated_batch_norms(model).items()
    assert not others
    of = batches(4, 2, 6)
    estimate(model, of)
    x = model[0](torch.cat(of)).movedim(1, 0).flatten(1)
    torch.testing.assert_close(batch_norm.running_mean, x.mean(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(batch_norm.running_var, x.var(1), rtol=1e-12, atol=0)
    for key, value in model.state_dict().items():
        assert key.endswith(STATISTICS) and key.startswith(name) or torch.equal(value, before[key]), key
    assert batch_norm.track_running_stats and batch_norm.momentum == 0.1
    assert not any(module.training or module._forward_hooks for module in model.modules())


def test_of_one_batch_they_are_what_torchs_batch_norm_takes_of_it():
    model, reference = (make_model(nn.BatchNorm3d) for _ in range(2))
    reference[1].momentum = 1.0
    (clips,) = batches(4)
    reference.train()(clips)
    estimate(model, [clips])
    for name in STATISTICS:
        torch.testing.assert_close(getattr(model[1], name), getattr(reference[1], name))


def test_the_splits_of_a_batch_have_their_own_and_evaluation_their_unions():
    model = make_model(partial(layers.SubBatchNorm3d, num_splits=2))
    of = batches(4, 4)
    estimate(model, of)
    x = torch.stack([model[0](clips).unflatten(0, (2, 2)) for clips in of]).movedim((1, 3), (0, 1)).flatten(2)
    torch.testing.assert_close(model[1].split_mean, x.mean(2), rtol=1e-12, atol=0)
    torch.testing.assert_close(model[1].split_var, x.var(2), rtol=1e-12, atol=0)
    whole = x.movedim(1, 0).flatten(1)
    torch.testing.assert_close(model[1].running_mean, whole.mean(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(model[1].running_var, whole.var(1), rtol=0.01, atol=0)


def test_they_are_those_of_fvcores_precise_batch_norm_but_for_the_unbiased_variance():
    model, reference = (make_model(nn.BatchNorm3d) for _ in range(2))
    of = batches(4, 4, 4)
    estimate(model, of)
    precise_bn.update_bn_stats(reference.train(), of, num_iters=3)
    torch.testing.assert_close(model[1].running_mean, reference[1].running_mean)
    torch.testing.assert_close(model[1].running_var, reference[1].running_var, rtol=1e-2, atol=0)


def test_float32_far_from_zero_keeps_its_digits():
    model = nn.Sequential(nn.Identity(), nn.BatchNorm3d(3))
    of = [1000 + clips - 30 for clips in batches(4, 4)]
    estimate(model, [clips.float() for clips in of])
    x = torch.cat([clips.float() for clips in of]).double().movedim(1, 0).flatten(1)
    torch.testing.assert_close(model[1].running_var.double(), x.var(1), rtol=1e-6, atol=0)


def test_frozen_ones_stay_and_a_network_without_others_is_refused():
    model = make_model(nn.BatchNorm3d)
    model[1].track_running_stats = False
    with pytest.raises(
        ValueError, match=r"network \(Sequential\) must have batch norms with running statist"
    ):
        estimate(model, batches(4))
    model[1].track_running_stats = True
    with pytest.raises(ValueError, match=r"network \(Sequential\) must give 1 a batch to estimate from"):
        estimate(model, [])


class HalfFrozen(nn.Sequential):
    def train(self, mode: bool = True):
        super().train(mode)
        self[0].eval()
        return self


def test_what_a_network_keeps_in_eval_mode_stays():
    model = HalfFrozen(nn.BatchNorm3d(3), nn.BatchNorm3d(3)).double()
    with precise_statistics(model) as norms:
        model(batches(4)[0])
    assert list(norms) == ["1"]
    assert not model[0].running_mean.any() and model[1].running_mean.all()


def test_after_an_exception_all_is_as_before():
    model = make_model(partial(layers.SubBatchNorm3d, num_splits=2))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"num_splits \(2\) must divide batch_size \(3\)"):
        estimate(model, batches(4, 3))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model[1].track_running_stats and not model[1].training and not model[1]._forward_hooks


def _of_process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    model = make_model(nn.BatchNorm3d)
    estimate(model, batches(4, 2, 6, 3)[rank::2])
    torch.save({name: getattr(model[1], name) for name in STATISTICS}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_share_their_batches(tmp_path):
    torch.multiprocessing.spawn(_of_process, (str(tmp_path),), nprocs=2)
    model = make_model(nn.BatchNorm3d)
    estimate(model, batches(4, 2, 6, 3))
    for rank in range(2):
        of_rank = torch.load(tmp_path / f"{rank}.pt")
        for name in STATISTICS:
            torch.testing.assert_close(of_rank[name], getattr(model[1], name), rtol=1e-12, atol=0)

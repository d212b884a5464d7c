"""When recorders record, and what they leave as it was: everything."""

import json
import warnings
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from two_layers import Layer, TwoLayers, batches, rows_of, train

from videonorm import models
from videonorm.diagnostics import (
    Activations,
    BatchStatistics,
    Channels,
    Generalization,
    LargestLearningRate,
    LogitGradients,
    LossLandscape,
)
from videonorm.diagnostics.blocks import blocks
from videonorm.errors import UserError
from videonorm.layers import BatchNorm3d, SubBatchNorm3d
from videonorm.training import LastCheckpoint, RunRecord
from videonorm.training.cli import main

ALL = (
    *(Activations, LargestLearningRate, LossLandscape, LogitGradients, Channels, BatchStatistics),
    Generalization,
)
TABLES = sorted(f"{name}.csv" for recorder in ALL for name in recorder.tables)


def all_of_them():
    """Due at every second step, but for the one that is at the beginning."""
    plain = [of(every_n_steps=2) for of in (Activations, LogitGradients, Channels)]
    few = [LossLandscape(2, per_decade=1), LargestLearningRate(steps=2)]
    return [*plain, *few, BatchStatistics(2, clips=8), Generalization(clips=8)]


class State(Callback):
    """All that a training goes on with, when each of its steps begins."""

    def __init__(self):
        self.steps = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.note(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append(outputs["loss"])
        self.note(trainer, pl_module)

    def on_train_end(self, trainer, pl_module):
        self.note(trainer, pl_module)

    def note(self, trainer, module):
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        momenta = [of["momentum_buffer"] for of in trainer.optimizers[0].state.values()]
        modes = torch.tensor([part.training for part in module.modules()])
        state = [*module.state_dict().values(), *gradients, *momenta, modes, torch.get_rng_state()]
        self.steps += [of.clone() for of in state]


def test_training_does_not_notice(tmp_path):
    """With dropout, batch norms that split their batch, momentum and accumulated gradients, to the bit."""
    found = []
    for recorders in ([], all_of_them()):
        torch.manual_seed(0)
        network = TwoLayers(partial(SubBatchNorm3d, num_splits=2), dropout=0.5)
        state = State()
        options = {"momentum": 0.9, "accumulate_grad_batches": 2}
        train(tmp_path, [*recorders, state], network=network, steps=3, **options)
        found.append(state.steps)
    without, with_all = found
    assert len(without) == len(with_all) > 100
    for one, other in zip(without, with_all, strict=True):
        assert torch.equal(one, other)
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == TABLES


def test_at_the_beginning_every_so_many_steps_and_at_the_end(tmp_path):
    train(tmp_path, [LogitGradients(every_n_steps=2)], steps=5, accumulate_grad_batches=2)
    assert [row["step"] for row in rows_of(tmp_path / "logit_gradients.csv")] == ["0", "2", "4", "5"]


def test_the_clock_of_training_stands_still(tmp_path):
    record, inside = RunRecord(), []

    class Looks(LogitGradients):
        def measure(self, subject):
            before = record.clock.train_seconds
            rows = super().measure(subject)
            inside.append(record.clock.train_seconds - before)
            return rows

    train(tmp_path, [Looks(every_n_steps=2), record], steps=3)
    assert inside == [0.0] * 3
    assert json.loads((tmp_path / "run.json").read_text())["train_seconds"] > 0


def test_a_run_that_goes_on_has_the_tables_of_the_unbroken_one(tmp_path):
    """The clips that it goes on with are others, and so would those of a new probe be."""

    def run(folder, steps, **options):
        torch.manual_seed(0)
        callbacks = [Activations(2), BatchStatistics(2, clips=8), LastCheckpoint(3)]
        network = TwoLayers(partial(BatchNorm3d, momentum=0.0))
        train(folder, callbacks, network=network, steps=steps, lr=0.0, enable_checkpointing=True, **options)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(whole, 5)
    run(broken, 3)
    assert {row["step"] for row in rows_of(broken / "activations.csv")} == {"0", "2", "3"}
    last = broken / "checkpoints" / "last.ckpt"
    probe = torch.load(last, weights_only=True)["probe"]  # of both recorders
    assert [len(clips) for clips, _ in probe] == [4, 4]
    torch.testing.assert_close(probe[1][0], batches()[4:8][0])
    run(broken, 5, ckpt_path=last, data=batches(seed=7))
    for name in ("activations.csv", "activation_slopes.csv", "batch_statistics.csv"):
        assert (broken / name).read_text() == (whole / name).read_text()
    assert [row["step"] for row in rows_of(whole / "activation_slopes.csv")] == ["0", "2", "4", "5"]


def test_a_run_that_is_over_keeps_its_tables(tmp_path):
    """Lightning calls nothing but its end."""
    table, last = tmp_path / "generalization.csv", tmp_path / "checkpoints" / "last.ckpt"
    train(tmp_path, [Generalization(clips=4), LastCheckpoint()], enable_checkpointing=True)
    written = table.read_text()
    train(tmp_path, [Generalization(clips=4)], ckpt_path=last)
    assert table.read_text() == written


class WithoutBlocks(TwoLayers):
    def __init__(self):
        super().__init__()
        for layer in (self.first, self.second):
            layer.is_block = False


class WithoutNorms(TwoLayers):
    def __init__(self):
        super().__init__()
        for layer in (self.first, self.second):
            layer.norm = torch.nn.Identity()


@pytest.mark.parametrize(
    "network, recorders, mistake",
    [
        (WithoutBlocks, [Activations()], r"backbone \(WithoutBlocks\) must have blocks .*\(Activations\)"),
        (WithoutNorms, [Channels()], r"backbone \(WithoutNorms\) must have norms .*\(Channels\)"),
        (TwoLayers, [BatchStatistics()], r"must have batch norms, and not frozen ones alone"),
        (TwoLayers, [Channels(1), Channels(2)], r"callbacks \(Channels\) must be there once"),
    ],
)
def test_what_cannot_be_looked_at_leaves_nothing_behind(tmp_path, network, recorders, mistake):
    with pytest.raises(UserError, match=mistake):
        train(tmp_path / "run", recorders, network=network())
    assert not (tmp_path / "run").exists()


def test_steps_along_the_gradient_are_not_rounded_away(tmp_path):
    with pytest.raises(UserError, match=r"precision \(bf16-true\) must leave weights in fp32"):
        train(tmp_path, [LossLandscape()], precision="bf16-true")


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda: models.ResNet3d(10, "r2plus1d", width=4), [f"stages.{stage}.0" for stage in range(4)]),
        (lambda: models.VGG3d(11, width=4), 8),
        (lambda: models.ResNetV2_3d(50, width=4, norm=BatchNorm3d), 16),
        (lambda: torch.nn.Sequential(Layer(3, BatchNorm3d), Layer(4, BatchNorm3d)), ["0", "1"]),
        (lambda: torch.nn.Sequential(torch.nn.Conv3d(3, 4, 1), torch.nn.ReLU()), []),
    ],
)
def test_blocks_are_known_by_their_role(make, expected):
    with torch.device("meta"):
        found = list(blocks(make()))
    assert len(found) == expected if isinstance(expected, int) else found == expected


@pytest.mark.slow
def test_the_blocks_of_pytorchvideo(tmp_path):
    """In both pathways of SlowFast, too; the import takes seconds."""
    with torch.device("meta"):
        assert list(blocks(models.from_pytorchvideo("slow_r50")))[:2] == [
            "blocks.1.res_blocks.0",
            "blocks.1.res_blocks.1",
        ]
        assert len(blocks(models.from_pytorchvideo("slowfast_r50"))) == 2 * 16


RECIPE = """
seed_everything: 0
model:
  backbone:
    class_path: videonorm.models.ResNet3d
    init_args: {{depth: 10, width: 4, num_classes: 4, norm: videonorm.layers.BatchNorm3d}}
  optimizer:
    class_path: torch.optim.AdamW
    init_args: {{lr: 2.0e-3}}
data:
  source:
    class_path: videonorm.data.MotionClips
    init_args: {{root: {root}, num_train: 4, num_val: 4, num_test: 4}}
  num_frames: 2
  frame_stride: 1
  batch_size: 2
  crop_size: 16
trainer:
  max_steps: 2
  accelerator: cpu
  gradient_clip_val: 5.0
  num_sanity_val_steps: 0
  enable_progress_bar: false
  logger: false
  callbacks:
    - {{class_path: videonorm.diagnostics.BatchStatistics, init_args: {{clips: 4}}}}
    - {{class_path: videonorm.diagnostics.Generalization, init_args: {{clips: 4}}}}
    - {{class_path: videonorm.diagnostics.LargestLearningRate, init_args: {{steps: 1}}}}
"""


def test_fit_with_all_of_them(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(root=tmp_path / "clips"))
    others = [of.__name__ for of in ALL if f"{of.__name__}, " not in RECIPE]
    added = [f"--trainer.callbacks+=videonorm.diagnostics.{name}" for name in others]
    folder = tmp_path / "run"
    options = ["-c", str(tmp_path / "recipe.yaml"), "--trainer.default_root_dir", str(folder)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main(["fit", *options, *added])
    assert sorted({path.name for path in folder.glob("*.csv")} & set(TABLES)) == TABLES
    for name in TABLES:
        steps = {row["step"] for row in rows_of(folder / name)}
        at_end = "batch" in name or "general" in name
        assert steps == ({"0"} if "learning" in name else {"2"} if at_end else {"0", "2"})
    assert len(rows_of(folder / "activations.csv", step=0)) == 4
    (row,) = rows_of(folder / "generalization.csv")
    recorded = json.loads((folder / "run.json").read_text())["val_loss"]
    assert float(row["val_loss"]) == pytest.approx(recorded, rel=1e-6)
    of_norms = [rows_of(folder / name, step=2) for name in ("channels.csv", "batch_statistics.csv")]
    assert [len(rows) for rows in of_norms] == [12, 12]

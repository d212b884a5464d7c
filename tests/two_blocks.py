"""A network of two blocks with norm and convolution as parts, and the losses of its training."""

from functools import partial

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from videonorm import layers
from videonorm.layers import (
    BatchNorm3d,
    GroupNorm3d,
    WSConv3d,
    group_weight_standardization,
)
from videonorm.training import VideoClassifier

CLASSES = 3
GN = partial(GroupNorm3d, num_groups=2)
NETWORKS = {
    "bn": {"norm": BatchNorm3d},
    "gn": {"norm": GN},
    "gn_ws": {"norm": GN, "conv": WSConv3d},
    "recompute": {"norm": GN, "conv": WSConv3d, "recompute": "norms"},
}


class Block(nn.Module):
    def __init__(self, in_channels, norm, conv):
        super().__init__()
        self.conv1, self.norm1 = conv(in_channels, 4, (1, 3, 3)), norm(4, activation="relu")
        self.conv2, self.norm2 = conv(4, 4, 1), norm(4, activation="relu")

    def forward(self, x):
        x = self.norm1(self.conv1(x))
        return self.norm2(self.conv2(x), x)


class TwoBlocks(nn.Module):
    def __init__(self, norm=GN, conv=nn.Conv3d, recompute="none", dropout=0.0):
        super().__init__()
        self.recompute = recompute
        self.stages = nn.ModuleList([Block(3, norm, conv), Block(4, norm, conv)])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4, CLASSES)
        if conv is WSConv3d:
            group_weight_standardization(self)

    def forward(self, clips):
        with layers.recompute(self.recompute):
            for stage in self.stages:
                clips = stage(clips)
            return self.head(self.dropout(clips.mean(dim=(2, 3, 4))))


class Losses(Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(float(trainer.callback_metrics["train/loss"]))


def fit(
    folder,
    make_network,
    *,
    steps=10,
    callbacks=(),
    compile=None,
    cuda_graph=False,
    clips=20,
    ckpt_path=None,
    lr=0.05,
    momentum=0.9,
    freeze=None,
    validates=False,
    **options,
):
    """Train on batches of four clips; the losses of the batches, the model and its trainer."""
    seed_everything(1)
    x = torch.randn(clips, 3, 2, 6, 6) + torch.arange(clips).view(-1, 1, 1, 1, 1) % CLASSES
    data = TensorDataset(x, torch.arange(clips) % CLASSES)
    optimizer = partial(torch.optim.SGD, lr=lr, momentum=momentum)
    model = VideoClassifier(make_network(), optimizer, freeze=freeze, compile=compile, cuda_graph=cuda_graph)
    losses = Losses()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu", "max_steps": steps}
    trainer = Trainer(default_root_dir=folder, callbacks=[*callbacks, losses], **(quiet | options))
    validation = DataLoader(data, batch_size=7) if validates else None
    trainer.fit(model, DataLoader(data, batch_size=4), validation, ckpt_path=ckpt_path)
    return losses.values, model, trainer

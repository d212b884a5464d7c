"""Trainings of a network of two layers, in float64, and what comes of them by hand."""

import csv
from dataclasses import dataclass

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from videonorm.layers import NoNorm
from videonorm.training import VideoClassifier

CHANNELS, CLASSES = 4, 3


class Layer(nn.Module):
    is_block = True

    def __init__(self, in_channels, norm):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, CHANNELS, 1, bias=False)
        self.norm = norm(CHANNELS, activation="relu")

    def forward(self, x):
        return self.norm(self.conv(x))


class TwoLayers(nn.Module):
    """Of convolutions that see one place each, so that they are matrices."""

    def __init__(self, norm=NoNorm, dropout=0.0):
        super().__init__()
        self.first, self.second = Layer(3, norm), Layer(CHANNELS, norm)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, clips):
        return self.head(self.dropout(self.second(self.first(clips)).mean(dim=(2, 3, 4))))


@dataclass
class ByHand:
    """The loss of TwoLayers without norms and its gradients, by the chain rule, in NumPy.

    Attributes:
        x, labels: (B, 3, P) values of P places, and (B,).
        weights: of the two convolutions (C, C_in), of the head (K, C), and the head's bias (K,).
    """

    x: np.ndarray
    labels: np.ndarray
    weights: list[np.ndarray]

    def __post_init__(self):
        first, second, head, bias = self.weights
        self.y1 = np.maximum(np.einsum("ci,bip->bcp", first, self.x), 0)
        self.y2 = np.maximum(np.einsum("ci,bip->bcp", second, self.y1), 0)
        self.features = self.y2.mean(axis=2)
        logits = self.features @ head.T + bias
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        clips, places = np.arange(len(self.x)), self.x.shape[2]
        self.loss = -np.log(p[clips, self.labels]).mean()
        self.by_logits = (p - np.eye(p.shape[1])[self.labels]) / len(clips)
        self.by_y2 = np.repeat((self.by_logits @ head)[..., None] / places, places, axis=2)
        inner = self.by_y2 * (self.y2 > 0)
        self.by_y1 = np.einsum("ci,bcp->bip", second, inner)
        self.gradient = [
            np.einsum("bcp,bip->ci", self.by_y1 * (self.y1 > 0), self.x),
            np.einsum("bcp,bip->ci", inner, self.y1),
            self.by_logits.T @ self.features,
            self.by_logits.sum(axis=0),
        ]

    def after(self, step_size):
        """With weights a step along the gradient on."""
        moved = [w - step_size * g for w, g in zip(self.weights, self.gradient, strict=True)]
        return ByHand(self.x, self.labels, moved)


def batches(number=6, clips=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(number * clips, 3, 2, 2, 2, generator=generator, dtype=torch.float64)
    return TensorDataset(x + x[:, :1, :1, :1, :1], torch.arange(len(x)) % CLASSES)


def train(
    folder, callbacks=(), *, steps=2, network=None, lr=0.1, momentum=0.0, data=None, ckpt_path=None, **options
):
    """Train on batches of four clips; the model, and its trainer."""
    seed_everything(1)
    backbone = network or TwoLayers()
    model = VideoClassifier(backbone, lambda groups: torch.optim.SGD(groups, lr=lr, momentum=momentum))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu", "precision": "64-true"}
    trainer = Trainer(default_root_dir=folder, max_steps=steps, callbacks=[*callbacks], **(quiet | options))
    trainer.fit(model, DataLoader(data or batches(), batch_size=4), ckpt_path=ckpt_path)
    return model, trainer


def rows_of(path, step=None):
    with open(path, newline="") as file:
        return [row for row in csv.DictReader(file) if step is None or int(row["step"]) == step]


def values_of(row, columns):
    return [float(row[column]) for column in columns]

"""Which classes are taken for which: a matrix, its picture, and a table with a row a class."""

import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

from videonorm.evaluation.scores import VideoScores
from videonorm.files import open_new, to_cell
from videonorm.look import STYLE

MOST_NUMBERS = 12  # classes whose squares have room for a number
MOST_NAMES = 60  # classes whose names can be read beside the rows


def confusion_matrix(scores: VideoScores) -> Tensor:
    """How many videos of each class (rows) are taken for each (columns), int64 (K, K).

    Of classes with equal scores the first is taken.
    """
    classes = scores.probabilities.shape[1]
    taken = scores.probabilities.argmax(dim=1)[scores.scored]
    return torch.bincount(scores.labels[scores.scored] * classes + taken, minlength=classes**2).view(
        classes, classes
    )


def write_classes(path: Path, scores: VideoScores, names: Sequence[str]) -> None:
    """A CSV file with a row for each class that has videos.

    Columns: label, name, videos, top1, top5, taken (videos of any class that are taken for this one), and the
    class that its own are most often mistaken for, mistaken_for, with how many are, mistaken.
    """
    matrix = confusion_matrix(scores)
    wrong = matrix.clone().fill_diagonal_(0)
    with open_new(path) as file:
        writer = csv.writer(file)
        writer.writerow(["label", "name", "videos", "top1", "top5", "taken", "mistaken_for", "mistaken"])
        for of in scores.classes(names):
            label = of["label"]
            other, mistaken = int(wrong[label].argmax()), int(wrong[label].max())
            result = [of["videos"], of["top1"], of["top5"], int(matrix[:, label].sum())]
            whose = to_cell(names[other]) if mistaken else ""
            writer.writerow([label, to_cell(of["name"]), *result, whose, mistaken])


def confusion_picture(matrix: Tensor, names: Sequence[str]) -> Figure:
    """The shares of each class's videos, row by row. Classes without videos have no row."""
    rows = matrix.sum(dim=1).nonzero()[:, 0].tolist()
    share = (matrix[rows] / matrix[rows].sum(dim=1, keepdim=True)).tolist()
    with matplotlib.rc_context(STYLE):
        named = len(names) <= MOST_NAMES
        width = 2.6 + 0.3 * len(names) if named else 10.0
        figure = Figure(figsize=(max(width, 4.2), max(width - 1.2, 3.2)), layout="constrained")
        axes = figure.subplots()
        axes.grid(False)
        axes.spines[["left", "bottom"]].set_visible(False)
        picture = axes.imshow(share, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        figure.colorbar(picture, ax=axes, label="share of the class's videos", fraction=0.046)
        axes.set(xlabel="taken for", ylabel="class")
        if named:
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(rows)), [names[row] for row in rows])
        else:
            axes.set_yticks([])
            axes.set_xticks([])
        for y, row in enumerate(share if len(names) <= MOST_NUMBERS else []):
            for x, value in enumerate(row):
                ink = "black" if value > 0.5 else "white"
                axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", color=ink, fontsize=9)
    return figure

"""Pictures of what a network looks at: class activation maps over the frames of clips."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image  # comes with matplotlib

from videonorm.look import STYLE

MOST_FRAMES = 8  # beside each other
LEAST_PIXELS = 192  # of an animation's frames; smaller ones are enlarged
HEAT = colormaps["inferno"]


def strip(
    title: str,
    captions: Sequence[str],
    frames: NDArray[np.uint8],
    maps: NDArray[np.float32],
    seconds: NDArray[np.float64],
) -> Figure:
    """Two rows a clip: up to eight of its frames, and the same with the map on them.

    Args:
        captions: (V) of the clips.
        frames: (V, T, H, W, 3).
        maps: (V, T, H, W), from 0 to 1.
        seconds: (V, T) times of the frames.
    """
    num_clips, num_frames, height, width, _ = frames.shape
    shown = np.unique(np.linspace(0, num_frames - 1, MOST_FRAMES).round().astype(int))
    cell = 1.5, 1.5 * height / width  # inches
    size = (cell[0] * max(len(shown), 4), num_clips * (2 * cell[1] + 0.45) + 0.75)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", weight="bold", size=11)
        clips: Any = figure.subfigures(num_clips, 1, squeeze=False)
        for number, clip in enumerate(clips[:, 0]):
            clip.suptitle(captions[number], x=0.01, ha="left", size=9)
            plain, heated = clip.subplots(2, len(shown), squeeze=False)
            for column, frame in enumerate(shown):
                plain[column].imshow(frames[number, frame])
                heated[column].imshow(overlay(frames[number, frame], maps[number, frame]))
                heated[column].set_xlabel(f"{seconds[number, frame]:.2f} s", size=8)
                for axes in (plain[column], heated[column]):
                    axes.set(xticks=[], yticks=[])
                    axes.spines[:].set_visible(False)
    return figure


def animation(frames: NDArray[np.uint8], maps: NDArray[np.float32], seconds: NDArray[np.float64]) -> bytes:
    """A GIF that shows the clips one after the other, each frame beside itself with the map on it.

    Args: see ``strip``.
    """
    times = max(1, -(-LEAST_PIXELS // frames.shape[2]))
    pictures, durations = [], []
    for clip, of_clip, when in zip(frames, maps, seconds, strict=True):
        for frame, of_frame in zip(clip, of_clip, strict=True):
            both = np.concatenate([frame, overlay(frame, of_frame)], axis=1)
            picture = Image.fromarray(both)
            pictures.append(picture.resize((times * picture.width, times * picture.height)))
        gaps = (
            np.clip(np.diff(when) * 1000, 20, 1000).round().astype(int).tolist()
        )  # ms; viewers go no faster
        durations += [*gaps, gaps[-1] if gaps else 1000]
    with io.BytesIO() as file:
        pictures[0].save(
            file, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=False
        )
        return file.getvalue()


def overlay(frame: NDArray[np.uint8], of_frame: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A frame (H, W, 3) in grey, and coloured where its map (H, W) is high."""
    grey = frame.mean(axis=2, keepdims=True)
    weight = 0.75 * of_frame[..., None]
    heat = 255 * HEAT(0.25 + 0.7 * of_frame)[..., :3]
    drawn: NDArray[np.uint8] = ((1 - weight) * grey + weight * heat).round().astype(np.uint8)
    return drawn

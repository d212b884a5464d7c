"""MotionClips: a generated data set in which the class is a motion, and a longer clip sees more of it.

Each video is a random texture that drifts in one of four directions, its class, under a jitter as large as
the drift. No frame tells the class; neither do two, for the jitter hides the drift. Over n steps the drift
adds up to n d pixels but the jitter only to sqrt(n) sigma, so each further frame helps, by a known amount
(``MotionClips.best_possible_top1``). Contrast differs between videos, by default twentyfold, and not within
one, as if each were filmed in a light of its own: what a batch of few videos makes of its statistics depends
on which videos they are.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from statistics import NormalDist

import av
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from rich.progress import track

from videonorm.data.manifest import Manifest, read_manifest
from videonorm.data.splits import Split
from videonorm.errors import UserError
from videonorm.files import cache_folder, new_file, write
from videonorm.machine import available_cores

VERSION = 1  # part of the folder's name: raise it when the videos change

CLASS_NAMES = ["right", "down", "left", "up"]
DIRECTIONS = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]])  # (y, x) of each class

NUM_FRAMES = 32
SIZE = 40  # pixels, square
TORUS = 64  # pixels, square: the texture repeats after so many
DRIFT = 1.75  # d: pixels a frame, in the direction of the class
JITTER = 1.75  # sigma: standard deviation in pixels a frame, along each axis
WAVELENGTHS = (10.0, 24.0)  # pixels; longer than any step of drift and jitter, so that motion is not aliased
CONTRAST = (4.0, 80.0)  # grey levels of one standard deviation, log-uniform over videos, at CONTRAST_RATIO
CONTRAST_RATIO = CONTRAST[1] / CONTRAST[0]
BRIGHTNESS = (114.0, 116.0)  # mean grey level, uniform over videos
FRAME_RATE = 24


class MotionClips:
    """Videos of drifting textures as real H.264 files, made at first use; a ``Source``.

    ``train.csv``, ``val.csv`` and ``test.csv`` in the folder are manifests of it for other commands.

    Args:
        root: folder of the videos; by default ``videonorm`` in the user's cache folder.
        num_train, num_val, num_test: videos of each split, an equal number of every class.
        seed: another seed is another data set.
        contrast_ratio: of the highest to the lowest contrast over the videos. It decides how much a batch of
            few clips knows: to normalize by its statistics is to divide by the contrast of the videos that
            happen to be in it. At 1 all have the same, of which two clips tell as much as a hundred. A
            video's texture and motion do not depend on the ratio, nor does the geometric mean of contrasts.

    Raises:
        UserError: ``contrast_ratio`` is below 1.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        num_train: int = 400,
        num_val: int = 400,
        num_test: int = 200,
        seed: int = 0,
        contrast_ratio: float = CONTRAST_RATIO,
    ) -> None:
        if not 1 <= contrast_ratio < math.inf:
            raise UserError(f"contrast_ratio ({contrast_ratio:g}) must be at least 1")
        self._sizes: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        self._seed = seed
        self._contrast_ratio = contrast_ratio
        name = f"motion_v{VERSION}_seed{seed}_{num_train}_{num_val}_{num_test}"
        if contrast_ratio != CONTRAST_RATIO:
            name += f"_contrast{contrast_ratio:.12g}"
        self.root = Path(root or cache_folder()) / name

    @property
    def class_names(self) -> list[str] | None:
        return CLASS_NAMES

    def settle_class_names(self, class_names: Sequence[str]) -> None:
        if list(class_names) != CLASS_NAMES:
            shown = ", ".join(class_names)
            raise UserError(f"class names of the network ({shown}) must be those of {', '.join(CLASS_NAMES)}")

    def prepare(self) -> None:
        """Make the videos that are missing; a run that was stopped goes on. Safe in several processes."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock"):  # of several processes one makes the files, the others wait
            missing = [video for video in self._videos() if not video[2].exists()]
            if missing:
                self._make(missing)
            for split in self._sizes:
                self._write_manifest(split)

    def manifest(self, split: Split) -> Manifest | None:
        return read_manifest(self.root / f"{split}.csv", class_names=CLASS_NAMES)

    def best_possible_top1(
        self, num_frames: int, frame_stride: int | None, frames_per_second: float | None = None
    ) -> float | None:
        """Accuracy of the ideal observer of one clip, as a fraction.

        Between its first and last frame lie n steps, over which the texture moves by N(n d u, n sigma^2 I), u
        the direction of the class. The best guess is the axis and sign nearest to that displacement, which is
        right where both of its components along the diagonals beside u are positive:
        Phi(d sqrt(n) / (sqrt(2) sigma))^2. Where the frames nearest to a clip's times may be n steps apart or
        n + 1, by its start, it is that of n + 1.
        """
        if frame_stride is None:
            assert frames_per_second is not None
            steps = math.ceil((num_frames - 1) * FRAME_RATE / frames_per_second - 1e-6)
        else:
            steps = (num_frames - 1) * frame_stride
        steps = min(steps, NUM_FRAMES - 1)
        positive = NormalDist().cdf(DRIFT * math.sqrt(steps) / (math.sqrt(2) * JITTER))
        return positive * positive

    def _videos(self) -> Iterator[tuple[Split, int, Path]]:
        for split, size in self._sizes.items():
            for number in range(size):
                name = CLASS_NAMES[number % len(CLASS_NAMES)]
                yield split, number, self.root / split / name / f"{number:05d}.mp4"

    def _make(self, videos: list[tuple[Split, int, Path]]) -> None:
        def make(video: tuple[Split, int, Path]) -> None:
            split, number, path = video
            rng = np.random.default_rng([self._seed, list(self._sizes).index(split), number])
            write_video(path, render(number % len(CLASS_NAMES), rng, self._contrast_ratio))

        # Threads: the Fourier transforms and the encoder release the interpreter lock. Half of them wait for
        # the disk, to which every file is synced.
        with ThreadPoolExecutor(2 * available_cores()) as pool:
            for _ in track(pool.map(make, videos), f"Making videos in {self.root}", total=len(videos)):
                pass

    def _write_manifest(self, split: Split) -> None:
        rows = [
            f"{path.relative_to(self.root)},{path.parent.name}"
            for of, _, path in self._videos()
            if of == split
        ]
        write(self.root / f"{split}.csv", "\n".join(["path,label", *rows, ""]))


def render(label: int, rng: np.random.Generator, contrast_ratio: float = CONTRAST_RATIO) -> NDArray[np.uint8]:
    """One video (NUM_FRAMES, SIZE, SIZE, 3) of the class.

    The texture is a sum of waves on a torus, moved by turning their phases: exact at any fraction of a pixel.
    """
    fy, fx = np.fft.fftfreq(TORUS)[:, None], np.fft.rfftfreq(TORUS)[None, :]
    frequency = np.hypot(fy, fx)
    band = (frequency >= 1 / WAVELENGTHS[1]) & (frequency <= 1 / WAVELENGTHS[0])

    def waves(channels: int) -> NDArray[np.complex128]:
        shape = (channels, *band.shape)
        amplitudes: NDArray[np.complex128] = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) * band
        return amplitudes

    spectrum = waves(1) + 0.5 * waves(3)  # colours share most of their structure, as in real pictures
    steps = DRIFT * DIRECTIONS[label] + JITTER * rng.normal(size=(NUM_FRAMES, 2))
    y, x = np.cumsum(steps, axis=0).T[:, :, None, None]
    turned = np.exp(-2j * np.pi * fy * y) * np.exp(-2j * np.pi * fx * x)  # (T, TORUS, TORUS / 2 + 1)
    texture = np.fft.irfft2(spectrum * turned[:, None], s=(TORUS, TORUS))[..., :SIZE, :SIZE]

    mean_squared = CONTRAST[0] * CONTRAST[1]
    contrasts = math.sqrt(mean_squared / contrast_ratio), math.sqrt(mean_squared * contrast_ratio)
    contrast = math.exp(rng.uniform(*np.log(contrasts)))
    frames = rng.uniform(*BRIGHTNESS) + contrast * texture / texture.std()
    return np.ascontiguousarray(frames.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


def write_video(path: Path, frames: NDArray[np.uint8]) -> None:
    """Encode frames (T, H, W, 3) as H.264.

    The bytes may differ from run to run, because x264's choice of frame types does; the pictures hardly do.
    """
    with new_file(path) as aside, av.open(str(aside), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(FRAME_RATE))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        # crf 15: the texture must survive at low contrast. A keyframe every 12 frames and fastdecode:
        # training opens these files thousands of times.
        stream.options = {"crf": "15", "preset": "veryfast", "tune": "fastdecode", "g": "12"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())

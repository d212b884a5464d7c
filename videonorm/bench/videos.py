"""Kinetics-like video files for the loading benchmarks, made once and kept in the user's cache folder.

Each picture is a textured background and three textured objects, which pan, turn and zoom along smooth random
paths, under sensor noise. Texture, motion and noise were chosen so that a file costs what a real one does
(means of the eight, and one Kinetics-400 clip of ten seconds as it was downloaded):

                                              kB    CPU ms to decode a frame    packets nobody refers to
    gop250, a keyframe in 250 frames         555              0.32                        44 %
    gop12_fast, the same transcoded          801              0.19                        35 %
    the Kinetics clip                        635              0.36                        39 %
"""

import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import torch
import torch.nn.functional as F
from av.video.frame import PictureType
from filelock import FileLock
from torch import Generator, Tensor

from videonorm.bench.terminal import new_progress
from videonorm.data import open_video
from videonorm.data.decoding import IndexStore
from videonorm.data.decoding.index_store import packet_index
from videonorm.data.decoding.packed import pack_video, write_shard
from videonorm.files import cache_folder, new_file, write
from videonorm.machine import available_cores

VERSION = 1  # part of the folder's name: raise it when the videos change
FRAME_RATE = 30

OBJECTS = 3
TORUS = 512  # pixels, square: the side of a texture
SLOPE = 1.35  # amplitudes of a texture fall with frequency ** -SLOPE
CONTRAST = 40.0  # grey levels of one standard deviation
NOISE = 4.0

JPEG_QUALITY = 90  # of packed frames, as data_prep/pack.py has it by default

# What x264 is told. Raw Kinetics has one or two keyframes in ten seconds; `gop12_fast` is what
# data_prep/transcode.py makes of such a file by default.
ENCODERS = {
    "gop250": {"preset": "medium", "crf": "23", "x264-params": "keyint=250:min-keyint=250:scenecut=0"},
    "gop12_fast": {"preset": "medium", "crf": "23", "g": "12", "tune": "fastdecode"},
}


@dataclass(frozen=True)
class Videos:
    """A few distinct videos, and manifests that list each of them many times under names of its own.

    So nothing that is remembered of a path helps with the next clip: it is as in a set too large to be kept
    in memory, but for the files being in the page cache.
    """

    num_videos: int  # distinct
    num_paths: int
    num_frames: int = 300
    height: int = 256
    width: int = 340

    @property
    def folder(self) -> Path:
        return cache_folder() / f"bench_v{VERSION}_{self.width}x{self.height}_{self.num_frames}"

    def manifest(self, kind: str) -> Path:
        """Of an entry of ENCODERS, or of ``packed_128`` for frames packed with a short side of 128 pixels."""
        return self.folder / f"{kind}_{self.num_videos}_{self.num_paths}.csv"

    def prepare(self, packed: Iterable[int] = ()) -> None:
        """Make what is missing; a run that was stopped goes on. Safe in several processes.

        Args:
            packed: short sides of frames to pack.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):  # of several processes one makes the files, the others wait
            missing = [n for n in range(self.num_videos) if not self._path("gop12_fast", n).exists()]
            shards = [side for side in packed if not self._shard(side).exists()]
            with new_progress() as progress, ThreadPoolExecutor(available_cores()) as pool:
                task = progress.add_task("", total=len(missing) + len(shards) + len(ENCODERS))
                progress.update(task, description=f"Making videos in {self.folder}")
                for _ in pool.map(self._make, missing):  # torch and x264 release the interpreter lock
                    progress.advance(task)
                for side in shards:
                    self._pack(side)
                    progress.advance(task)
                for side in packed:
                    shard = self._shard(side).name
                    self._write_manifest(f"packed_{side}", [f"{shard}/{n}" for n in range(self.num_videos)])
                for kind in ENCODERS:
                    self._link(kind)
                    progress.advance(task)

    def _path(self, kind: str, number: int) -> Path:
        return self.folder / f"{kind}_{number}.mp4"

    def _make(self, number: int) -> None:
        raw, transcoded = (self._path(kind, number) for kind in ("gop250", "gop12_fast"))
        pictures = render(number, self.num_frames, self.height, self.width)
        encode(raw, (av.VideoFrame.from_ndarray(picture.numpy(), "rgb24") for picture in pictures), "gop250")
        with av.open(str(raw)) as container:
            encode(transcoded, container.decode(container.streams.video[0]), "gop12_fast")

    def _shard(self, short_side: int) -> Path:
        return self.folder / f"packed_{short_side}_{self.num_videos}.safetensors"

    def _pack(self, short_side: int) -> None:
        packed = []
        for number in range(self.num_videos):
            with open_video(str(self._path("gop250", number))) as video:
                frames = pack_video(video, 0, video.num_frames, short_side=short_side, quality=JPEG_QUALITY)
            packed.append(frames)
        write_shard(self._shard(short_side), packed, short_side=short_side)

    def _link(self, kind: str) -> None:
        """Give the videos their many names, and index the packets of each, as the first epoch would do."""
        manifest = self.manifest(kind)
        links = manifest.with_suffix("")
        links.mkdir(exist_ok=True)
        paths = [links / f"{number:05d}.mp4" for number in range(self.num_paths)]
        if not manifest.exists():
            for number, path in enumerate(paths):
                path.unlink(missing_ok=True)
                path.symlink_to(os.path.relpath(self._path(kind, number % self.num_videos), links))
            self._write_manifest(kind, [str(path.relative_to(self.folder)) for path in paths])
        store = IndexStore.beside(manifest)
        for path in paths:
            packet_index(str(path), store=store)

    def _write_manifest(self, kind: str, paths: Iterable[str]) -> None:
        write(self.manifest(kind), "\n".join(["path,label", *(f"{path},0" for path in paths), ""]))


def render(seed: int, num_frames: int, height: int, width: int) -> Iterator[Tensor]:
    """The pictures of a video, uint8 (H, W, 3) each."""
    generator = Generator().manual_seed(seed)
    textures = [_texture(generator) for _ in range(OBJECTS + 1)]
    paths = [_paths(num_frames, generator) for _ in textures]
    centres = 1.6 * torch.rand(OBJECTS, 2, generator=generator) - 0.8
    radii = 0.12 + 0.25 * torch.rand(OBJECTS, generator=generator)
    noise = NOISE * torch.randn(16, 3, height, width, generator=generator)
    rows = torch.linspace(-1, 1, height) * height / width
    y, x = torch.meshgrid(rows, torch.linspace(-1, 1, width), indexing="ij")
    for number in range(num_frames):
        picture = _sample(textures[0], x, y, paths[0][:, number], moves=True)
        for texture, path, centre, radius in zip(textures[1:], paths[1:], centres, radii, strict=True):
            dx, dy = centre + torch.stack([2 * path[0, number], 1.5 * path[1, number]])
            inside = (60 * (radius - torch.hypot(x - dx, 1.3 * (y - dy)))).clamp(0, 1)
            pattern = 1 + _sample(texture, x - dx, y - dy, path[:, number], moves=False)
            picture = torch.lerp(picture, pattern, inside)
        shift = torch.randint(0, 64, (2,), generator=generator).tolist()
        grey = 118 + CONTRAST * picture + noise[number % len(noise)].roll(shift, (1, 2))
        yield grey.clamp(0, 255).byte().permute(1, 2, 0).contiguous()


def _texture(generator: Generator) -> Tensor:
    """(1, 3, TORUS, TORUS) of about unit variance; colours share most of their structure, as in pictures."""
    fy, fx = torch.fft.fftfreq(TORUS)[:, None], torch.fft.rfftfreq(TORUS)[None]
    amplitude = torch.hypot(fy, fx).clamp(min=1 / TORUS) ** -SLOPE

    def waves(channels: int) -> Tensor:
        parts = torch.randn(2, channels, *amplitude.shape, generator=generator)
        waves: Tensor = torch.fft.irfft2(torch.complex(*parts) * amplitude, s=(TORUS, TORUS))
        return waves / waves.std()

    return (waves(1) + 0.4 * waves(3))[None]


def _paths(num_frames: int, generator: Generator) -> Tensor:
    """(4, num_frames) smooth walks: shifts along x and y, angle, logarithm of the zoom."""
    seconds = torch.arange(num_frames) / FRAME_RATE
    frequency = 0.1 + 0.9 * torch.rand(4, 4, 1, generator=generator)
    phase = torch.rand(4, 4, 1, generator=generator)
    amplitude = torch.randn(4, 4, 1, generator=generator) / (0.5 + frequency)
    waves = (amplitude * torch.sin(2 * math.pi * (frequency * seconds + phase))).sum(1)
    return waves * torch.tensor([0.15, 0.15, 0.1, 0.12])[:, None]


def _sample(texture: Tensor, x: Tensor, y: Tensor, path: Tensor, moves: bool) -> Tensor:
    dx, dy, angle, zoom = path.tolist()
    scale, cosine, sine = 0.6 * math.exp(zoom), math.cos(angle), math.sin(angle)
    grid = scale * torch.stack([cosine * x - sine * y, sine * x + cosine * y], -1)
    if moves:
        grid = grid + torch.tensor([dx, dy])
    sampled = F.grid_sample(texture, grid[None], padding_mode="reflection", align_corners=False)
    return sampled.squeeze(0)


def encode(path: Path, pictures: Iterable[av.VideoFrame], kind: str) -> None:
    """Write an MP4 of an entry of ENCODERS."""
    faststart = {"movflags": "+faststart"}
    with new_file(path) as aside, av.open(str(aside), "w", format="mp4", options=faststart) as container:
        stream = container.add_stream("libx264", rate=Fraction(FRAME_RATE), options=ENCODERS[kind])
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the other cores have files of their own
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.width, stream.height = picture.width, picture.height
            picture.pict_type = PictureType.NONE  # or the encoder would repeat the source's keyframes
            container.mux(stream.encode(picture))
        container.mux(stream.encode())

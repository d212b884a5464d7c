"""``videonorm bench views``: what all views of a video cost in a test, from the file to normalized crops.

    ours              ``VideoDataset`` with ``UniformClips``: one pass over the file decodes every frame of
                      all clips once; ``EvalTransform`` cuts the crops out
    pytorchvideo      LabeledVideoDataset with ConstantClipsPerVideoSampler: the file is opened once, each
                      clip is sought and decoded on its own, and each crop is scaled on its own
    pyslowfast_steps  the steps of PySlowFast, done again here, for it is no package: every view opens the
                      file, seeks, decodes, normalizes and scales

Each view is float32 (3, T, P, P). There is no loader. A contender has a process of its own in each round, and
goes through all cases there. The first video of each case does not count.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, product
from typing import TYPE_CHECKING

from videonorm.bench import loading
from videonorm.bench.loading import add_ratio, crop_size, new_case
from videonorm.bench.options import BenchmarkParser, Default
from videonorm.bench.records import Row
from videonorm.bench.trial import Cost, Trial
from videonorm.options import positive_integer

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    from torch import Tensor

    from videonorm.data import Manifest

LOADERS = ("ours", "pytorchvideo", "pyslowfast_steps")
CLIPS = ((8, 8), (32, 2))  # T x stride
NUM_PATHS = Default(8, 4)
TIMED_VIDEOS = 3

COLUMNS = loading.new_columns(
    {
        "crop_size": "pixels of a view's side",
        "num_clips": "clips of a video",
        "num_crops": "crops of each clip",
    },
    {
        "videos_per_second": "by the clock",
        "cpu_seconds_per_video": "user and system time",
        "ratio_to_pytorchvideo": "CPU time of pytorchvideo / this",
    },
)


def parser() -> BenchmarkParser:
    options = loading.new_parser("views", __doc__, COLUMNS, LOADERS, CLIPS)
    options.add("--num_clips", "of a video", 10, type=positive_integer, metavar="N")
    options.add("--num_crops", "of a clip", 3, type=int, choices=(1, 3))
    return options


def run(options: argparse.Namespace) -> None:
    """See ``loading.run``."""
    processes = [[Trial(case, options.rounds) for case in cases(name, options)] for name in options.loader]
    loading.run(options, __name__, COLUMNS, NUM_PATHS[options.quick], processes, compare)


def cases(loader: str, options: argparse.Namespace) -> list[Row]:
    views = {"num_clips": options.num_clips, "num_crops": options.num_crops}
    return [
        new_case(loader, clip, side, "gop250") | {"crop_size": crop_size(side)} | views
        for clip, side in product(options.clip, options.short_side)
    ]


def compare(rows: Sequence[Row]) -> None:
    """Enter what the rows of the results are relative to others."""
    add_ratio(rows, "ratio_to_pytorchvideo", "cpu_seconds_per_video", "pytorchvideo", ["case"])


def trial(case: Row) -> Row:
    """Measure a case, in the process of a contender."""
    from videonorm.data import read_manifest

    manifest = read_manifest(case["manifest"])
    contenders: dict[str, Callable[[Manifest, Row], Iterator[int]]] = {
        "ours": _ours,
        "pytorchvideo": _pytorchvideo,
        "pyslowfast_steps": _pyslowfast,
    }
    videos = contenders[case["loader"]](manifest, case)
    views = case["num_clips"] * case["num_crops"]
    expected = views * 3 * case["num_frames"] * case["crop_size"] ** 2
    next(videos)
    with Cost() as cost:
        for elements in islice(videos, TIMED_VIDEOS):
            assert elements == expected, f"the views have {elements} values, not {expected}"
    return {
        "videos_per_second": TIMED_VIDEOS / cost.seconds,
        "cpu_seconds_per_video": cost.cpu_seconds / TIMED_VIDEOS,
    }


def _ours(manifest: Manifest, case: Row) -> Iterator[int]:
    """The elements of all views of video after video."""
    from videonorm.data import EvalTransform, UniformClips, VideoDataset, collate

    sampling = UniformClips(case["num_frames"], case["frame_stride"], case["num_clips"])
    dataset = VideoDataset(manifest, sampling, short_side=case["short_side"], replace_bad=False)
    transform = EvalTransform(case["crop_size"], num_crops=case["num_crops"])
    for number in range(len(dataset)):
        yield transform(collate([dataset[number]]))[0].numel()


def _pytorchvideo(manifest: Manifest, case: Row) -> Iterator[int]:
    from videonorm.bench import peers

    views = iter(peers.pytorchvideo_views(manifest, case))
    while video := list(islice(views, case["num_clips"] * case["num_crops"])):
        yield sum(view.numel() for view in video)


def _pyslowfast(manifest: Manifest, case: Row) -> Iterator[int]:
    from videonorm.bench import peers

    num_crops = case["num_crops"]

    def view(path: str, number: int) -> Tensor:
        frames = peers.pyslowfast_clip(path, number // num_crops, case)
        return peers.uniform_crop(frames, case["crop_size"], number % num_crops, num_crops)

    for entry in manifest.entries:
        views = [view(entry.path, number) for number in range(case["num_clips"] * num_crops)]
        yield sum(view.numel() for view in views)

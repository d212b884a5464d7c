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

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice, product

from torch import Tensor

from videonorm.bench import peers
from videonorm.bench.command import VIEWS_LOADERS
from videonorm.bench.loading import CASE_COLUMNS, add_ratio, crop_size, medians, new_case
from videonorm.bench.records import LOADING_ORIGIN, Records, Row, loading_origin
from videonorm.bench.terminal import new_progress, show_loading
from videonorm.bench.trial import Cost, Plan, take_turns
from videonorm.bench.videos import Videos
from videonorm.data import EvalTransform, Manifest, UniformClips, VideoDataset, collate, read_manifest

VIDEOS = Videos(num_videos=8, num_paths=8)
QUICK_VIDEOS = Videos(num_videos=2, num_paths=4)
CLIPS = ((8, 8), (32, 2))  # T x stride
QUICK_CLIPS = CLIPS[:1]
SHORT_SIDES = (128, 256)
QUICK_SHORT_SIDES = SHORT_SIDES[:1]
TIMED_VIDEOS = 3

COLUMNS = (
    LOADING_ORIGIN
    | CASE_COLUMNS
    | {
        "crop_size": "pixels of a view's side",
        "num_clips": "clips of a video",
        "num_crops": "crops of each clip",
        "loader": "contender",
        "rounds": "processes of which the median is taken",
        "videos_per_second": "by the clock",
        "cpu_seconds_per_video": "user and system time",
        "ratio_to_pytorchvideo": "CPU time of pytorchvideo / this",
        "error": "why there is no time",
    }
)


def run(options: argparse.Namespace) -> None:
    """Measure what the options of `videonorm bench views` ask for.

    Raises:
        UserError: the results cannot be written.
    """
    videos = QUICK_VIDEOS if options.quick else VIDEOS
    rounds = options.rounds or (1 if options.quick else 2)
    todo = cases(options)
    plans = [Plan(name, todo) for name in options.loader or VIEWS_LOADERS]
    with Records(options.out, COLUMNS) as records:
        made_on = loading_origin() | {"quick": int(options.quick)}
        videos.prepare()
        work = [
            Plan(name, [case | {"manifest": str(videos.manifest(case["files"]))} for case in todo])
            for name, _ in plans
        ]
        answers: list[Row] = []
        try:
            with new_progress() as progress:
                answers.extend(take_turns(__name__, work, rounds, progress))
        finally:
            records.add(made_on | row for row in rows(plans, answers))
    show_loading(records.rows, records.path)


def cases(options: argparse.Namespace) -> list[Row]:
    clips = options.clip or (QUICK_CLIPS if options.quick else CLIPS)
    sides = options.short_side or (QUICK_SHORT_SIDES if options.quick else SHORT_SIDES)
    views = {"num_clips": options.num_clips, "num_crops": options.num_crops}
    return [
        new_case(clip, side, "gop250") | {"crop_size": crop_size(side)} | views
        for clip, side in product(clips, sides)
    ]


def rows(plans: Sequence[Plan], answers: Sequence[Row]) -> list[Row]:
    """The rows of the results, with what they are relative to others."""
    found = medians(plans, answers)
    for row in found:
        if "cpu_seconds_per_video" in row:
            row["videos_per_cpu_second"] = 1 / row["cpu_seconds_per_video"]
    add_ratio(found, "ratio_to_pytorchvideo", "videos_per_cpu_second", "pytorchvideo", ["case"])
    return [{name: row[name] for name in row if name in COLUMNS} for row in found]


def trial(loader: str, case: Row) -> Row:
    """Measure a case, in the process of a contender."""
    manifest = read_manifest(case["manifest"])
    contenders: dict[str, Callable[[Manifest, Row], Iterator[int]]] = {
        "ours": _ours,
        "pytorchvideo": _pytorchvideo,
        "pyslowfast_steps": _pyslowfast,
    }
    videos = contenders[loader](manifest, case)
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
    sampling = UniformClips(case["num_frames"], case["frame_stride"], case["num_clips"])
    dataset = VideoDataset(manifest, sampling, short_side=case["short_side"], replace_bad=False)
    transform = EvalTransform(case["crop_size"], num_crops=case["num_crops"])
    for number in range(len(dataset)):
        yield transform(collate([dataset[number]]))[0].numel()


def _pytorchvideo(manifest: Manifest, case: Row) -> Iterator[int]:
    names = ("num_frames", "frame_stride", "short_side", "crop_size", "num_clips", "num_crops")
    views = iter(peers.pytorchvideo_views(manifest, *(case[name] for name in names)))
    while video := list(islice(views, case["num_clips"] * case["num_crops"])):
        yield sum(view.numel() for view in video)


def _pyslowfast(manifest: Manifest, case: Row) -> Iterator[int]:
    clip = partial(
        peers.pyslowfast_clip,
        num_clips=case["num_clips"],
        num_frames=case["num_frames"],
        frame_stride=case["frame_stride"],
        short_side=case["short_side"],
    )

    def view(path: str, number: int) -> Tensor:
        frames = clip(path, number // case["num_crops"])
        return peers.uniform_crop(frames, case["crop_size"], number % case["num_crops"], case["num_crops"])

    for entry in manifest.entries:
        views = [view(entry.path, number) for number in range(case["num_clips"] * case["num_crops"])]
        yield sum(view.numel() for view in views)

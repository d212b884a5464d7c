"""The options of `videonorm evaluate`, and the files that --out stands for."""

import argparse
from pathlib import Path

from videonorm.evaluation.view_options import add_artifact, add_device, add_loading, add_views
from videonorm.options import Parser, fraction, positive_integer, positive_number


def beside(out: Path, what: str) -> Path:
    """motion.scores.npz for motion.json and scores.npz."""
    return out.with_name(f"{out.name.removesuffix('.json')}.{what}")


def parser() -> Parser:
    parser = Parser(
        prog="videonorm evaluate",
        description="Score every video of a manifest over num_clips x num_crops views, softmax averaged over "
        "them, as `videonorm test` does. A video that cannot be decoded is never replaced: it is listed with "
        "the reason.",
    )
    what = parser.add_argument_group("what is judged, and on what")
    add_artifact(what)
    what.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="MANIFEST",
        help="CSV with the columns path,label[,start_seconds,end_seconds,split], list of `path label`, or "
        "folder with a folder of videos for each class",
    )
    what.add_argument(
        "--root", metavar="DIR|URL", help="where relative paths start (default: at the manifest)"
    )
    what.add_argument(
        "--split", choices=["train", "val", "test"], help="rows to take, if the CSV has a column split"
    )
    what.add_argument(
        "--compare",
        type=Path,
        metavar="DIR|FILE",
        help="another artifact, scored on the same videos, or the result of an earlier evaluation (.json or "
        ".npz): the difference in top-1 with its 95 %% interval, McNemar's exact test, and the videos that "
        "only one of them gets right",
    )
    views = parser.add_argument_group("views; what is not given is as the artifact says")
    add_views(views, num_clips=10, num_crops=3)
    views.add_argument("--num_frames", type=positive_integer, metavar="T", help="frames of a clip")
    pace = views.add_mutually_exclusive_group()
    pace.add_argument(
        "--frame_stride",
        type=positive_integer,
        metavar="N",
        help="source frames from one of them to the next",
    )
    pace.add_argument(
        "--frames_per_second",
        type=positive_number,
        metavar="X",
        help="or how many of them a second has: those nearest to the clip's times",
    )
    how = parser.add_argument_group(
        "how; of what is not exactly fp32, the largest deviation on the first batch is told"
    )
    add_loading(how, "videos, and clips that the network sees,")
    add_device(how)
    how.add_argument(
        "--devices",
        type=positive_integer,
        default=1,
        metavar="N",
        help="processes that share the videos, each on a GPU of its own if there are any; needs --out. "
        "torchrun may start them, too, on several machines if all see --out (default: 1)",
    )
    how.add_argument(
        "--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast (default: fp32)"
    )
    how.add_argument(
        "--channels_last",
        action=argparse.BooleanOptionalAction,
        help="clips and weights in channels_last_3d memory (default: on CUDA the clips are)",
    )
    how.add_argument("--compile", action="store_true", help="run the network by torch.compile")
    how.add_argument(
        "--max_bad_fraction",
        type=fraction,
        default=0.05,
        metavar="X",
        help="share of the videos that may be undecodable before it is an error (default: 0.05)",
    )
    result = parser.add_argument_group("result")
    result.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json",
        help="default: standard output. Beside it are written FILE.scores.npz, what every video scored, "
        "FILE.classes.csv and FILE.confusion.png; and FILE.partial while it runs: interrupted, the same "
        "command goes on from there",
    )
    result.add_argument(
        "--all_scores", action="store_true", help="every class's score of a video, not just the top 5"
    )
    return parser

"""The options of `videonorm evaluate`, and the files that --out stands for."""

import argparse
from pathlib import Path

from videonorm.options import Parser, fraction, positive_integer, positive_number, seconds, whole_number


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
    what.add_argument(
        "--artifact",
        required=True,
        type=Path,
        metavar="DIR|FILE",
        help="folder, .pt2, .onnx or .safetensors file of `videonorm export`, or .ckpt of `videonorm fit`",
    )
    what.add_argument(
        "--trust",
        action="store_true",
        help="let the artifact run code, if you know who made it: a folder may then name any class that can "
        "be imported, not just networks and layers of videonorm, torch.nn, torchvision and pytorchvideo, and "
        "a .pt2 file may be any that torch.export can load, which unpickles it",
    )
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
    views.add_argument(
        "--num_clips", type=positive_integer, default=10, metavar="N", help="clips a video (default: 10)"
    )
    views.add_argument(
        "--num_crops", type=positive_integer, default=3, metavar="N", help="crops of each clip (default: 3)"
    )
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
    views.add_argument(
        "--short_side", type=positive_integer, metavar="PIXELS", help="scale videos to it before the crop"
    )
    how = parser.add_argument_group(
        "how; of what is not exactly fp32, the largest deviation on the first batch is told"
    )
    how.add_argument(
        "--batch_size",
        type=positive_integer,
        default=8,
        metavar="N",
        help="videos at a time, and clips that the network sees at once (default: 8)",
    )
    how.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)"
    )
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
    decoders = ["auto", "pyav", "torchcodec", "torchcodec_cuda", "decord"]
    how.add_argument("--decoder", choices=decoders, default="auto")
    how.add_argument(
        "--num_workers",
        type=whole_number,
        metavar="N",
        help="decoding processes (default: up to 8 on CUDA, none on the CPU)",
    )
    how.add_argument(
        "--time_limit_seconds",
        type=seconds,
        default=60.0,
        metavar="S",
        help="what reading one video may take in such a process before it counts as bad (default: 60)",
    )
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

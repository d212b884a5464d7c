"""``videonorm bench``: the benchmarks' options, and the way to each of them.

A benchmark is imported only when it is run, so that help and a mistyped option answer at once.
"""

import argparse
import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

from videonorm.errors import UserError

NETS = ("r3d-18", "r3d-50", "i3d-50", "vgg3d-11")
DTYPES = ("bfloat16", "float16", "float32")
OPS = ("gn", "gn_relu", "gn_add_relu", "ws")
KERNEL_CONTENDERS = (
    *("ours", "ours_grouped", "bn", "torch_gn", "torch_gn_autocast", "torch_compile"),
    *("timm", "var_mean", "copy"),
)
STEP_NETS = ("r3d-18", "i3d-50")
STEP_CONTENDERS = ("bn", "gn_torch", "gn", "gn_ws", "gn_ws_recompute")
MEMORY_FORMATS = ("channels_last_3d", "contiguous_format")
OURS = ("ours_pyav", "ours_torchcodec", "ours_decord")
PYTORCHVIDEO = ("pytorchvideo_pyav", "pytorchvideo_decord")
DECODE_LOADERS = ("limit", "limit_disposable", *OURS, "torchcodec", *PYTORCHVIDEO)
LOADERS = (
    *("limit_disposable", *OURS, "ours_packed", "ours_pyav_cpu", "ours_packed_cpu"),
    *("torchcodec", *PYTORCHVIDEO),
)
VIEWS_LOADERS = ("ours", "pytorchvideo", "pyslowfast_steps")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def kernels_parser() -> argparse.ArgumentParser:
    parser = _new_parser(
        "kernels",
        "Time group norm (+ residual, + ReLU) and weight standardization, forward and backward, at the "
        "sizes that they have inside networks: ours, torch's group norm (eager, under autocast, compiled), "
        "batch norm, and a plain copy. All take turns in one run, on inputs that are not in the cache; the "
        "times are medians.",
    )
    _add_device(parser)
    select = parser.add_argument_group("what is measured (everything by default)")
    _add_choices(select, "--net", NETS, "networks whose norms and filters are measured")
    _add_choices(select, "--op", OPS, "operators")
    _add_choices(select, "--dtype", DTYPES, "of x")
    _add_choices(select, "--contender", KERNEL_CONTENDERS, "who takes part")
    _add_sizes(select, "--num_frames", "T", (8, 16, 32, 64), "frames of a clip")
    _add_sizes(select, "--crop_size", "P", (112, 224), "pixels of a clip's side")
    _add_sizes(select, "--batch_size", "N", (1, 2, 8), "clips")
    select.add_argument(
        "--memory_format",
        choices=MEMORY_FORMATS,
        default="channels_last_3d",
        help="of x (default: %(default)s)",
    )
    parser.add_argument(
        "--repeats", type=_positive, metavar="R", help="of which the median is taken (default: 20; quick: 3)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few small tensors, without the compiled contender"
    )
    return parser


def step_parser() -> argparse.ArgumentParser:
    parser = _new_parser(
        "step",
        "Time whole training steps (forward, backward, SGD with momentum) under bf16 autocast in "
        "channels_last_3d: r3d-18 at 112 pixels and i3d-50 at 224, at T x B of 8 x 16, 32 x 4, 64 x 2 and "
        "64 x 1, with batch norm, torch's group norm, ours, ours with weight standardization, and that with "
        "norms recomputed in the backward pass. The models take turns in one run; the times are medians.",
    )
    _add_device(parser)
    select = parser.add_argument_group("what is measured (everything by default)")
    _add_choices(select, "--net", STEP_NETS, "networks")
    _add_choices(select, "--contender", STEP_CONTENDERS, "norms and convolutions")
    select.add_argument(
        "--max_clips",
        type=float,
        nargs="?",
        const=0.0,
        metavar="GIB",
        help="find also the most clips of 32 frames whose step fits in GIB of GPU memory (default: all)",
    )
    parser.add_argument(
        "--repeats", type=_positive, metavar="R", help="of which the median is taken (default: 20; quick: 3)"
    )
    parser.add_argument("--quick", action="store_true", help="narrow networks on small clips")
    return parser


def decode_parser() -> argparse.ArgumentParser:
    parser = _new_parser(
        "decode",
        "Measure what it costs one core to get the frames of a clip out of a file: ours with each decoder, "
        "torchcodec's own, PyTorchVideo's, and libavcodec alone, which is the limit. The videos are made "
        "at first use, like those of Kinetics: 340 x 256 pixels, 10 s, 30 frames a second, H.264 with a "
        "keyframe every 250 frames, and transcoded with one every 12. Each contender has a process of its "
        "own, in turn, round after round; the figures are medians.",
    )
    _add_loading(parser, DECODE_LOADERS, "8x8 16x4 32x2 64x4", "2; quick: 1")
    parser.add_argument("--quick", action="store_true", help="two videos, one case, one round")
    return parser


def loader_parser() -> argparse.ArgumentParser:
    parser = _new_parser(
        "loader",
        "Measure whole training loaders, from files to batches of 8 clips: ours with each decoder and from "
        "packed frames (to uint8, or normalized on the CPU), PyTorchVideo's LabeledVideoDataset and "
        "torchcodec's clip sampler (normalized in the workers), and a loader that only decodes, which is the "
        "limit. The videos are made at first use, like those of Kinetics: "
        "340 x 256 pixels, 10 s, 30 frames a second, H.264 with a keyframe every 250 frames, and transcoded "
        "with one every 12. Each contender has a process of its own, in turn, round after round; the figures "
        "are medians.",
    )
    _add_loading(parser, LOADERS, "8x8 16x4 32x2", "2; quick: 1")
    parser.add_argument("--num_workers", type=_positive, default=2, metavar="N", help="(default: 2)")
    parser.add_argument(
        "--memory_clips",
        type=_positive,
        metavar="N",
        help="clips that each worker loads while its memory is watched (default: 5000; quick: 200)",
    )
    parser.add_argument("--quick", action="store_true", help="two videos, one case, one round")
    return parser


def views_parser() -> argparse.ArgumentParser:
    parser = _new_parser(
        "views",
        "Measure what all views of a video cost in a test, from the file to normalized crops: ours in one "
        "pass over the file, PyTorchVideo's clip by clip, and PySlowFast's view by view (its steps, done "
        "again here). The videos are made at first use, like those of Kinetics. Each contender has a process "
        "of its own, in turn, round after round; the figures are medians.",
    )
    _add_loading(parser, VIEWS_LOADERS, "8x8 32x2", "2; quick: 1")
    parser.add_argument("--num_clips", type=_positive, default=10, metavar="N", help="(default: 10)")
    parser.add_argument("--num_crops", type=int, choices=(1, 3), default=3, help="of a clip (default: 3)")
    parser.add_argument("--quick", action="store_true", help="two videos, one case, one round")
    return parser


class Benchmark(NamedTuple):
    """What a benchmark is on the command line. The module's `run(options)` is the benchmark."""

    module: str
    parser: Callable[[], argparse.ArgumentParser]
    text: str


BENCHMARKS = {
    "kernels": Benchmark("videonorm.bench.kernels", kernels_parser, "single operators beside their peers"),
    "step": Benchmark("videonorm.bench.step", step_parser, "a whole training step, norm beside norm"),
    "decode": Benchmark("videonorm.bench.decode", decode_parser, "the frames of a clip out of a file"),
    "loader": Benchmark("videonorm.bench.loader", loader_parser, "whole training loaders"),
    "views": Benchmark("videonorm.bench.views", views_parser, "all views of a video for a test"),
}


def usage() -> str:
    width = max(map(len, BENCHMARKS))
    rows = "\n".join(f"  {name:{width}}  {benchmark.text}" for name, benchmark in BENCHMARKS.items())
    return (
        "usage: videonorm bench BENCHMARK [options]\n\n"
        "Measure the parts beside their peers on this machine, to a table and a CSV file.\n\n"
        f"benchmarks:\n{rows}\n\n"
        "`videonorm bench BENCHMARK --help` lists a benchmark's options."
    )


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an unknown benchmark or option, or a device that this machine has not.
    """
    name, *options = argv or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"benchmark ({name}) must be one of {', '.join(BENCHMARKS)}{hint}")
    benchmark = BENCHMARKS[name]
    chosen = benchmark.parser().parse_args(options)
    importlib.import_module(benchmark.module).run(chosen)


def _new_parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"videonorm bench {name}", description=description, allow_abbrev=False)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.csv",
        default=Path("runs") / "bench" / f"{name}.csv",
        help="the results (default: %(default)s); a run that is stopped leaves FILE.csv.partial",
    )
    return parser


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="where to measure (default: cuda where there is a GPU)"
    )


def _add_loading(parser: argparse.ArgumentParser, loaders: tuple[str, ...], clips: str, rounds: str) -> None:
    select = parser.add_argument_group("what is measured (everything by default)")
    _add_choices(select, "--loader", loaders, "who takes part")
    select.add_argument(
        "--clip",
        nargs="+",
        type=_clip,
        metavar="TxSTRIDE",
        help=f"frames of a clip, and how far apart they are (default: {clips}; quick: 8x8)",
    )
    help_text = "pixels of the frames' shorter side, crops are 7/8 of it (default: 128 256; quick: 128)"
    select.add_argument("--short_side", nargs="+", type=_positive, metavar="P", help=help_text)
    parser.add_argument(
        "--rounds", type=_positive, metavar="R", help=f"of which the median is taken (default: {rounds})"
    )


def _add_choices(group: argparse._ArgumentGroup, flag: str, choices: tuple[str, ...], text: str) -> None:
    help_text = f"{text}: {', '.join(choices)}"
    group.add_argument(flag, nargs="+", choices=choices, metavar="NAME", help=help_text)


def _add_sizes(
    group: argparse._ArgumentGroup, flag: str, name: str, default: tuple[int, ...], text: str
) -> None:
    help_text = f"{text} (default: {' '.join(map(str, default))})"
    group.add_argument(flag, nargs="+", type=_positive, metavar=name, help=help_text)


def _clip(text: str) -> tuple[int, int]:
    num_frames, _, frame_stride = text.partition("x")
    try:
        return _positive(num_frames), _positive(frame_stride)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"({text}) must be frames x stride, as 8x8") from None


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"({text}) must be a whole number of at least 1")
    return int(text)

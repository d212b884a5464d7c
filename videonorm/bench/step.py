"""``videonorm bench step``: a whole training step, norm beside norm.

A step is forward, backward and SGD with momentum, under bf16 autocast, with clips and weights in
channels_last_3d and cuDNN's own choice of algorithm (``torch.backends.cudnn.benchmark``). Clips are random
and stay on the device: no loader is part of it.

    bn                      BatchNorm3d
    gn_torch                torch's F.group_norm, +, ReLU
    gn                      GroupNorm3d
    gn_ws                   GroupNorm3d and WSConv3d
    gn_ws_recompute         the same with ``recompute: norms``
    gn_ws_recompute_blocks  with ``recompute: blocks``
    gn_ws_recompute_8bit    with ``recompute: blocks_8bit``
    bn_replayed, ..         if asked for, on a GPU: any of them, its step captured in a CUDA graph once and
                            replayed without the host's work

A time is that of three steps one after the other, by the host's clock, from an idle device to an idle device:
it includes whatever the device waits for the host. The models take turns; the first two windows of each do
not count. Peak memory is of the third step and later ones of a model that is alone on the device, with its
weights, gradients and momentum. Saved bytes are counted without running anything: what autograd keeps of one
more clip, each storage once, parameters left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from videonorm.bench import compute
from videonorm.bench.names import NORMS, REPLAYED, STEPS
from videonorm.bench.options import BenchmarkParser
from videonorm.bench.records import ORIGIN, Row
from videonorm.errors import UserError
from videonorm.options import product_of

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    import torch

    from videonorm.bench.trainer import Case

NETS = {"r3d-18": 112, "i3d-50": 224}  # pixels of their clips
SIZES = ((8, 16), (32, 4), (64, 2), (64, 1))  # T x B
QUICK_SIZES = ((4, 2), (8, 1))
MAX_CLIPS_FRAMES = 32

COLUMNS = ORIGIN | {
    "net": "the network",
    "crop_size": "pixels of a clip's side",
    "num_frames": "T, frames of a clip",
    "batch_size": "B, clips",
    "contender": "norm and convolution",
    "milliseconds": "of a step, median",
    "clips_per_second": "batch_size / milliseconds",
    "ratio_to_bn": "milliseconds / those of bn, of what is replayed / those of bn_replayed",
    "peak_memory_mib": "most memory that tensors of a step had on the GPU; none of what is replayed",
    "saved_bytes_per_clip": "what a further clip makes autograd keep for the backward pass; none of the same",
    "max_clips": "most clips whose step fits in memory_limit_mib; such a row has no times",
    "memory_limit_mib": "GPU memory for max_clips",
    "error": "why there is no time",
}


def parser() -> BenchmarkParser:
    options = compute.new_parser("step", __doc__, COLUMNS, quick="narrow networks on small clips")
    nets = tuple(NETS)
    options.add("--net", "networks", nets, nets[:1], choices=nets, metavar="NAME")
    options.add("--contender", "norms and convolutions", NORMS, choices=STEPS, metavar="NAME")
    form, text = "frames x clips, as 8x16", "T x B, frames and clips of a batch; none: only --max_clips"
    options.add("--size", text, SIZES, QUICK_SIZES, type=product_of(2, form), nargs="*", metavar="TxB")
    text = (
        f"find also the most clips of {MAX_CLIPS_FRAMES} frames that fit in GIB of GPU memory (default: all)"
    )
    options.add_argument("--max_clips", type=float, nargs="?", const=0.0, metavar="GIB", help=text)
    return options


def run(options: argparse.Namespace) -> None:
    """Measure what the options ask for.

    Raises:
        UserError: the device is not there, the option is not for it, or the results cannot be written.
    """
    import torch

    from videonorm.bench.trainer import measure

    def new_measure(device: torch.device) -> Callable[[Case], Iterator[Row]]:
        if options.max_clips is not None and device.type != "cuda":
            raise UserError(f"--max_clips must be asked of a GPU: --device is {device.type}")
        replayed = [name for name in options.contender if name.endswith(REPLAYED)]
        if replayed and device.type != "cuda":
            raise UserError(f"--contender ({replayed[0]}) must be asked of a GPU: --device is {device.type}")
        if replayed and options.max_clips is not None:
            raise UserError(f"--contender ({replayed[0]}) must stand without --max_clips")
        torch.backends.cudnn.benchmark = True
        return partial(measure, names=options.contender, repeats=options.repeats, device=device)

    compute.run(options, COLUMNS, select_cases, new_measure)


def select_cases(options: argparse.Namespace) -> list[Case]:
    cases = new_cases(options)
    if options.max_clips is not None:
        most = {"num_frames": MAX_CLIPS_FRAMES, "limit_gib": options.max_clips}
        cases += [replace(net, **most) for net in _nets(options)]
    if not cases:
        raise UserError("--size must have a size, or stand with --max_clips")
    return cases


def new_cases(options: argparse.Namespace) -> list[Case]:
    """Every network with batches of every size."""
    return [
        replace(net, num_frames=num_frames, batch_size=batch_size)
        for net in _nets(options)
        for num_frames, batch_size in options.size
    ]


def _nets(options: argparse.Namespace) -> list[Case]:
    from videonorm.bench.trainer import Case

    if options.quick:
        return [Case(net, 32, 0, 0, width=16, num_groups=4) for net in options.net]
    return [Case(net, NETS[net], 0, 0) for net in options.net]

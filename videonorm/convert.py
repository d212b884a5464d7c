"""`videonorm convert`: the norms and convolutions of a trained network swapped, folded, re-estimated."""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videonorm.errors import UserError
from videonorm.files import check_writable, new_file, sha256
from videonorm.frontier.options import find_overlay
from videonorm.interruption import stops
from videonorm.messages import counted, one_sentence
from videonorm.options import Parser, add_trust, positive_integer

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    from torch import Tensor, nn

    from videonorm.evaluation.checkpoint import Checkpoint
    from videonorm.models import ConversionReport

    Done = tuple[Checkpoint, list[str]]
    Act = Callable[[Checkpoint], Done]

KEPT = 1e-5  # of the largest logit: a difference of so much is one of rounding
PARTS = ("norm", "conv", "recompute")  # of an overlay

DESCRIPTION = """\
Swap the norms and the convolutions of a checkpoint's network, and write another checkpoint, which export,
evaluate, validate and test read as they do one of fit. Weights, gamma, beta and statistics move over where
the new layer has a place for them. What computes the same as before in evaluation, and what does not and so
is to be trained further, is said; the difference is measured on a random clip.
"""
EXAMPLES = """\
--norm takes overlays, files or the names of those in configs/norm and configs/conv; several apply in order.
--fold puts batch norms into the convolutions before them, and makes weight standardization plain weights.
--precise_bn passes training clips of a recipe through the network and takes the statistics of batch norms of
them all (arXiv:2105.07576): after the swap where that has batch norms, before it otherwise, as for frozen_bn.

examples:
  videonorm convert --ckpt best.ckpt --norm gn_ws --out gn_ws.ckpt
  videonorm convert --ckpt best.ckpt --norm frozen_bn --precise_bn 200 -c configs/motion_r18.yaml --out G.ckpt
  videonorm convert --ckpt best.ckpt --fold --out folded.ckpt
"""


def main(argv: list[str]) -> None:
    parser = Parser(
        prog="videonorm convert",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "--ckpt", required=True, type=Path, metavar="FILE", help="checkpoint written by `videonorm fit`"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="new checkpoint to write")
    parser.add_argument(
        "--norm",
        nargs="+",
        action="extend",
        default=[],
        metavar="OVERLAY",
        help="such as bn, frozen_bn, gn, gn_ws, ln, or a YAML file like those in configs/norm",
    )
    parser.add_argument("--fold", action="store_true", help="make convolutions plain, with norms in them")
    parser.add_argument(
        "--precise_bn",
        type=positive_integer,
        metavar="N",
        help="take the statistics of batch norms of N batches of training clips; needs -c",
    )
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="recipe, overlays: the training clips for --precise_bn, in its batches",
    )
    add_trust(parser, "the checkpoint")
    options = parser.parse_args(argv)
    if not (options.norm or options.fold or options.precise_bn):
        raise UserError("--norm, --fold or --precise_bn must say what is to be done (see --help)")
    if bool(options.precise_bn) != bool(options.config):
        raise UserError(
            "--precise_bn and -c must be given together: a recipe says what the training clips are"
        )
    if options.out.exists():
        raise UserError(f"--out ({options.out}) must be a new file")
    check_writable(options.out)
    overlay = read_overlays(options.norm)
    with stops("nothing is written"):
        for line in _convert(options, overlay):
            print(line, flush=True)
    print(options.out)


# Overlays


def read_overlays(names: Sequence[str]) -> dict[str, Any]:
    """What overlays say of a network's norm and conv, the last one first.

    Raises:
        UserError: there is no such overlay, or it changes something else too.
    """
    import yaml

    folders = [
        root / "configs" / kind
        for root in (Path(), Path(__file__).parents[1])  # here, and in the checkout that is installed
        for kind in ("norm", "conv")
    ]
    overlay: dict[str, Any] = {}
    for name in names:
        path = find_overlay(name, folders, "norm")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"--norm ({path}) must be a YAML file that can be read") from error
        arguments = content
        for key in ("model", "backbone", "init_args"):
            only = isinstance(arguments, dict) and list(arguments) == [key]
            arguments = arguments[key] if only else None
        if not isinstance(arguments, dict) or not arguments or arguments.keys() - set(PARTS):
            raise UserError(
                f"--norm ({path}) must be an overlay that changes norm and conv of model.backbone.init_args "
                "and nothing else"
            )
        overlay |= arguments
    return overlay


# The conversion


def _convert(options: argparse.Namespace, overlay: dict[str, Any]) -> Iterator[str]:
    """Write the new checkpoint; yields what is to be said of each thing that is done.

    Raises:
        UserError: the checkpoint, an overlay or the recipe cannot be used, or nothing would change.
    """
    import torch

    from videonorm.evaluation.checkpoint import load_checkpoint, save_checkpoint

    checkpoint = load_checkpoint(options.ckpt, options.trust)
    _, logits = checkpoint.try_out()
    shape = checkpoint.clips_shape
    if not logits.isfinite().all():
        raise UserError(f"ckpt ({options.ckpt}) must give finite logits of a random clip {shape}")
    origin = {"name": options.ckpt.name, "sha256": sha256(options.ckpt), "norm": options.norm}
    origin |= {"precise_bn": options.precise_bn, "fold": options.fold}
    for act in _acts(checkpoint.network, options, overlay):
        checkpoint, said = act(checkpoint)
        yield from said
        before, (_, logits) = logits, checkpoint.try_out()
        yield _comparison(before, logits, shape)
    with new_file(options.out) as aside:
        save_checkpoint(aside, checkpoint, converted=origin)
        _, written = load_checkpoint(aside, trust=True).try_out()
        if not torch.allclose(written, logits, rtol=0, atol=0, equal_nan=True):
            raise UserError(f"out ({options.out}) must give the logits of what it is made of, and does not")


def _acts(network: nn.Module, options: argparse.Namespace, overlay: dict[str, Any]) -> list[Act]:
    """What is asked for, in the order in which it is to be done."""
    import copy

    from videonorm.layers import estimated_batch_norms

    acts: list[Act] = []
    swapped = network
    if overlay:
        factories = _factories(overlay)
        swapped = copy.deepcopy(network)
        _swap(swapped, factories, options.ckpt)
        acts.append(lambda checkpoint: _swapped(checkpoint, overlay, factories, options.ckpt))
    if options.precise_bn:
        # Frozen ones and those that go have their statistics from before.
        last = bool(estimated_batch_norms(swapped))
        if not last and not estimated_batch_norms(network):
            raise UserError(
                f"ckpt ({options.ckpt}) must have batch norms for --precise_bn, which are not frozen"
            )
        acts.insert(len(acts) if last else 0, lambda checkpoint: _estimated(checkpoint, options))
    if options.fold:
        acts.append(lambda checkpoint: _folded(checkpoint, options.ckpt))
    return acts


def _factories(overlay: dict[str, Any]) -> dict[str, Any]:
    """What makes the norms and the convolutions that an overlay names."""
    import copy

    import jsonargparse

    from videonorm.models import ConvFactory, NormFactory

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    asked = {name: overlay[name] for name in ("norm", "conv") if name in overlay}
    for name in asked:
        parser.add_argument(f"--{name}", type={"norm": NormFactory, "conv": ConvFactory}[name])
    try:
        made = parser.instantiate(parser.parse_object(copy.deepcopy(asked)))
    except jsonargparse.ArgumentError as error:
        raise UserError(f"--norm: {one_sentence(str(error))}") from error
    return {name: made[name] for name in asked}


def _swap(network: nn.Module, factories: dict[str, Any], ckpt: Path) -> ConversionReport:
    from videonorm.models import convert

    try:
        report = convert(network, **factories)
    except ValueError as error:
        raise UserError(f"ckpt ({ckpt}) must take what --norm asks for: {error}") from error
    return _changed(report, ckpt)


def _changed(report: ConversionReport, ckpt: Path) -> ConversionReport:
    if not report.changed:
        first = "".join(f"; {left.name} stays: {left.reason}" for left in report.left[:1])
        raise UserError(f"ckpt ({ckpt}) must have a norm or a convolution that this changes{first}")
    return report


def _swapped(checkpoint: Checkpoint, overlay: dict[str, Any], factories: dict[str, Any], ckpt: Path) -> Done:
    from videonorm.evaluation.description import of_converted

    report = _swap(checkpoint.network, factories, ckpt)
    backbone = of_converted(checkpoint.backbone, checkpoint.network, overlay)
    return dataclasses.replace(checkpoint, backbone=backbone), list(_lines(report))


def _folded(checkpoint: Checkpoint, ckpt: Path) -> Done:
    from videonorm.evaluation.description import of_folded
    from videonorm.models import fold

    try:
        report = fold(checkpoint.network, checkpoint.clips_shape)
    except ValueError as error:
        raise UserError(f"ckpt ({ckpt}): {error}") from error
    lines = list(_lines(_changed(report, ckpt)))
    backbone = of_folded(checkpoint.backbone, checkpoint.network, checkpoint.clips_shape)
    return dataclasses.replace(checkpoint, backbone=backbone), lines


def _estimated(checkpoint: Checkpoint, options: argparse.Namespace) -> Done:
    """Have `fit` pass its training clips through the network."""
    import tempfile

    from videonorm.evaluation.checkpoint import load_checkpoint, save_checkpoint
    from videonorm.frontier.fitting import feed
    from videonorm.frontier.recipe import read_recipe
    from videonorm.layers import estimated_batch_norms

    recipe = read_recipe(options.config)
    with tempfile.TemporaryDirectory() as folder:
        ckpt, out = Path(folder) / "before.ckpt", Path(folder) / "after.ckpt"
        save_checkpoint(ckpt, checkpoint)
        arguments = {
            "ckpt": str(ckpt),
            "batches": options.precise_bn,
            "out": str(out),
            "trust": options.trust,
        }
        estimator = {"class_path": "videonorm.frontier.networks.Estimator", "init_args": arguments}
        feed(recipe.settings, estimator, Path(folder), data={}, trainer={"max_steps": options.precise_bn})
        checkpoint = load_checkpoint(out, trust=True)
    norms = len(estimated_batch_norms(checkpoint.network))
    clips = f"{counted(recipe.batch_size, 'clip')} of {recipe.num_frames} frames"
    return checkpoint, [f"{norms} x statistics of {options.precise_bn} batches of {clips}"]


# What is said


def _lines(report: ConversionReport) -> Iterator[str]:
    kinds = Counter((change.summary, change.keeps_function) for change in report.changed)
    for (summary, keeps), count in kinds.items():
        yield f"{count} x {summary}: {'the same function' if keeps else 'another function'} in evaluation"
    for left in report.left:
        yield f"{left.name} ({left.module}) stays: {left.reason}"


def _comparison(before: Tensor, after: Tensor, shape: tuple[int, ...]) -> str:
    difference, largest = (after - before).abs().max().item(), before.abs().max().item()
    kept = difference <= KEPT * largest
    return (
        f"  logits of a random clip {shape}: {difference:.1e} off at most, of up to {largest:.3g}: "
        f"{'the function is kept' if kept else 'another function'}"
    )

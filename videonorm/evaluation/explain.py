"""`videonorm explain`: where in a video a network sees a class, drawn over its frames."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videonorm.errors import UserError
from videonorm.evaluation.videos import as_manifest
from videonorm.evaluation.view_options import WITH_LAYERS, add_artifact, add_device
from videonorm.files import check_writable, write
from videonorm.interruption import stops
from videonorm.messages import did_you_mean
from videonorm.options import Parser, positive_integer

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    import torch

    from videonorm.evaluation.artifact import Card

DESCRIPTION = """\
Draw class activation maps (Grad-CAM, by torchcam: pip install 'videonorm[explain]') over the frames of a
video: what is coloured speaks for the class, the more the brighter, on one scale for all clips.
"""
EPILOG = """\
examples:
  videonorm explain clip.mp4 --artifact exported/motion --out clip.png
  videonorm explain clip.mp4 --artifact exported/motion --out clip.gif --num_clips 3 --class "riding a bike"

exit codes: 0 done; 2 a mistake, or a file that cannot be read or written; 130, 143 stopped.
"""


def main(argv: list[str]) -> None:
    parser = Parser(prog="videonorm explain", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("video", metavar="VIDEO", help="a file, or a URL (extra [remote])")
    add_artifact(parser, WITH_LAYERS)
    out = "a strip of frames (.png), or an animation (.gif)"
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.png|FILE.gif", help=out)
    what = "the class, by its name or number (default: the most likely)"
    parser.add_argument("--class", dest="label", metavar="CLASS", help=what)
    layer = "of which layer, as in named_modules (default: the last that keeps places apart)"
    parser.add_argument("--layer", metavar="NAME", help=layer)
    clips = (
        "clips, spread over the video as the artifact says, in their centre crop (default: 1, in its middle)"
    )
    parser.add_argument("--num_clips", type=positive_integer, default=1, metavar="N", help=clips)
    side = "scale the video to it before the crop (default: as the artifact says)"
    parser.add_argument("--short_side", type=positive_integer, metavar="PIXELS", help=side)
    add_device(parser.add_argument_group("how"))
    options = parser.parse_args(argv)
    if options.out.suffix.lower() not in (".png", ".gif"):
        raise UserError(f"out ({options.out}) must be a .png or .gif file")
    try:
        check_writable(options.out)
    except OSError as error:
        raise UserError(f"out ({options.out}) must be writable ({error.strerror})") from error
    with stops("nothing is written"):
        _explain(options)


def _explain(options: Any) -> None:
    import numpy as np
    import torch

    from videonorm.data import collate
    from videonorm.data.decoding.location import without_credentials
    from videonorm.evaluation.activation_maps import activation_maps, check_torchcam
    from videonorm.evaluation.answers import class_names
    from videonorm.evaluation.artifact import load_artifact
    from videonorm.evaluation.explanation import animation, strip
    from videonorm.evaluation.outputs import check_logits, too_small
    from videonorm.evaluation.penultimate import module_of
    from videonorm.look import as_png, percent
    from videonorm.machine import choose_device

    check_torchcam()
    device = choose_device(options.device)
    artifact = load_artifact(options.artifact, device, options.trust)
    card = artifact.card
    network = module_of(artifact.network, options.artifact)
    clips = card.input
    if options.short_side:
        clips = dataclasses.replace(clips, short_side=options.short_side)
    shown = without_credentials(options.video)
    sample = clips.dataset(
        as_manifest([options.video], card.num_classes), options.num_clips, decoder=options.decoder
    )[0]
    batch = collate([sample])
    for path, reason in batch.bad:
        raise UserError(f"{path} {reason}")
    if reason := too_small(*batch.sizes[0], clips.crop_size):
        raise UserError(f"{shown} {reason}")
    views, _ = clips.transform(1, channels_last=False).to(device)(batch.to(device))
    views = views[0]  # (V, 3, T, H, W)
    with torch.inference_mode():
        logits = torch.cat([network(clip[None]) for clip in views])
    check_logits(logits[None], card.num_classes)
    probabilities = logits.float().softmax(dim=1)  # (V, K)
    label = _label(options.label, card, probabilities.mean(dim=0))
    maps = activation_maps(network, views, label, options.layer)

    mean, std = (torch.tensor(of, device=device).view(3, 1, 1, 1) for of in (clips.mean, clips.std))
    frames = ((views * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 4, 1).cpu().numpy()
    values = maps.values.float().cpu().numpy()
    seconds = np.stack([np.linspace(start, end, clips.num_frames) for start, end in batch.clip_seconds[0]])
    name = class_names(card)[label]
    if options.out.suffix.lower() == ".gif":
        write(options.out, animation(frames, values, seconds))
    else:
        title = f"{os.path.basename(shown)}: where {name} is seen (Grad-CAM of {maps.layer})"
        captions = [
            f"{start:.2f} to {end:.2f} s: {name} {percent(of_clip[label].item())}"
            for (start, end), of_clip in zip(batch.clip_seconds[0], probabilities, strict=True)
        ]
        write(options.out, as_png(strip(title, captions, frames, values, seconds)))
    told = percent(probabilities[:, label].mean().item())
    print(f"{options.out}: {name} {told}, Grad-CAM of {maps.layer}")


def _label(given: str | None, card: Card, probabilities: torch.Tensor) -> int:
    """The class that is asked for: a name of the card's, or a number."""
    if given is None:
        return int(probabilities.argmax())
    names = card.class_names or []
    if given in names:
        return names.index(given)
    if given.isdecimal() and int(given) < card.num_classes:
        return int(given)
    raise UserError(
        f"class ({given}) must be a name that the artifact has, or a number below {card.num_classes}"
        f"{did_you_mean(given, names)}"
    )

"""`videonorm import`: weights that others trained become a checkpoint of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videonorm import __version__
from videonorm.errors import UserError
from videonorm.interruption import stops
from videonorm.options import Parser, add_trust

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    from videonorm.data.clip_spec import ClipSpec

DESCRIPTION = """\
Turn weights that others trained into a checkpoint, which `export`, `validate`, `test` and `predict` take, and
`fit` as --model.weights. It says what became of every tensor, and refuses weights that do not fit.

Read are files of torchvision (r3d_18, mc3_18, r2plus1d_18), PyTorchVideo (slow, c2d, i3d, r2plus1d, csn, x3d,
slowfast), PySlowFast, MMAction2 (slowonly, i3d, r2plus1d, csn) and 3D-ResNets-PyTorch; of image networks,
whose filters are inflated, torchvision's and timm's resnet50 and resnet101, timm's resnet50_gn and
resnetv2_50x1_bit, and BiT's own; checkpoints of `videonorm fit` and folders of `videonorm export`. They may
be of torch.save, safetensors or npz. No code of them is run.
"""
EXAMPLES = """\
The network is that of the recipe. Without one it is what the weights imply, where that is one network:
torchvision's three, PyTorchVideo's slow, c2d and i3d; or what a checkpoint or folder of ours says itself.

examples:
  videonorm import r3d_18-b3b3357e.pth --to r3d_18.ckpt
  videonorm import I3D_8x8_R50.pyth --to i3d_r50.ckpt -c configs/kinetics400_r50.yaml
  videonorm import X3D_M.pyth --to start.ckpt -c my_recipe.yaml --new head
"""
# What the weights were trained on, where no recipe says it: torchvision's and PyTorchVideo's own clips.
TORCHVISION_CLIPS: dict[str, Any] = {
    **{
        "num_frames": 16,
        "frame_stride": None,
        "frames_per_second": 15.0,
        "crop_size": 112,
        "short_side": 128,
    },
    **{"mean": [0.43216, 0.394666, 0.37645], "std": [0.22803, 0.22145, 0.216989]},
}
PYTORCHVIDEO_CLIPS: dict[str, Any] = {
    **{"num_frames": 8, "frame_stride": 8, "frames_per_second": None, "crop_size": 256, "short_side": 256},
    **{"mean": [0.45] * 3, "std": [0.225] * 3},
}
CLIPS = {
    **dict.fromkeys(("r3d", "mc3", "r2plus1d"), TORCHVISION_CLIPS),
    **dict.fromkeys(("slow", "c2d", "i3d"), PYTORCHVIDEO_CLIPS),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """The network that weights go into, and its clips."""

    backbone: dict[str, Any]
    input: ClipSpec
    class_names: list[str] | None


def main(argv: list[str]) -> None:
    parser = Parser(prog="videonorm import", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("weights", type=Path, metavar="FILE", help="the weights")
    parser.add_argument("--to", required=True, type=Path, metavar="CKPT", help="checkpoint to make")
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="recipe or overlay of `fit`, for the network and its clips; may be repeated",
    )
    parser.add_argument(
        "--new",
        nargs="+",
        default=[],
        metavar="PART",
        help="what of the network does not come from the weights and starts anew: head (for other classes), "
        "norms, or the beginning of a tensor's name, such as stages.3",
    )
    add_trust(parser, "a checkpoint or folder of ours")
    options = parser.parse_args(argv)
    with stops("nothing is written"):
        import_weights(options.weights, options.to, options.config, options.new, options.trust)


def import_weights(
    weights: Path, to: Path, configs: Sequence[Path] = (), new: Sequence[str] = (), trust: bool = False
) -> None:
    """Write the checkpoint `to`, whole or not at all, and say what it has of the weights.

    Args:
        configs: a recipe and its overlays; without, the weights must tell their network.
        new: see `load_foreign`.
        trust: let a file of ours name any class, and so run the code of any module.

    Raises:
        UserError: the weights cannot be read, do not fit or tell no network; `to` is there already.
    """
    if to.exists():
        raise UserError(f"to ({to}) must be a new file")
    import torch

    from videonorm.evaluation.checkpoint import Checkpoint, build_backbone, save_checkpoint
    from videonorm.evaluation.start import load_start

    target = _of_recipe(configs) if configs else _of_file(weights, trust)
    torch.manual_seed(0)  # what is new is the same every time
    network = build_backbone(
        target.backbone, "the recipe" if configs else str(weights), trust or bool(configs)
    )
    start = load_start(network, weights, new, name="weights", option="--new")
    class_names = None if "head" in new else target.class_names
    made = Checkpoint(
        network, target.backbone, target.input, class_names, step=0, epoch=0, version=__version__
    )
    save_checkpoint(to, made, weights=start.record())
    clips = target.input
    pace = (
        f"x{clips.frame_stride}" if clips.frames_per_second is None else f" at {clips.frames_per_second:g}/s"
    )
    print(start.report)
    print(
        f"{to}: {type(network).__name__}, clips of {clips.num_frames}{pace} frames, "
        f"{clips.crop_size} x {clips.crop_size}"
    )


def _of_recipe(configs: Sequence[Path]) -> Target:
    """The network and the clips of a recipe of `fit`, resolved as `fit` does it."""
    from videonorm.data.clip_spec import ClipSpec
    from videonorm.frontier.recipe import read_recipe

    recipe = read_recipe(configs)
    data = {**recipe.settings["data"], "short_side": recipe.settings["data"]["eval_short_side"]}
    clips = ClipSpec(**{field.name: data[field.name] for field in dataclasses.fields(ClipSpec)})
    return Target(dict(recipe.backbone), clips, None)


def _of_file(weights: Path, trust: bool) -> Target:
    """The network that a file of ours describes, or that the weights imply."""
    import torch

    from videonorm.data.clip_spec import ClipSpec
    from videonorm.evaluation.artifact import load_artifact
    from videonorm.evaluation.checkpoint import load_checkpoint
    from videonorm.models import implied_backbone
    from videonorm.models.weights.reading import read_weights

    if weights.is_dir():
        card = load_artifact(weights, torch.device("cpu"), trust).card
        return Target(card.backbone, card.input, card.class_names)
    state, is_ours = read_weights(weights)
    if is_ours:
        ours = load_checkpoint(weights, trust)
        return Target(ours.backbone, ours.input, ours.class_names)
    backbone = implied_backbone(state)
    if backbone is None:
        raise UserError(
            f"-c must name the recipe of a network for weights ({weights}), which imply none by themselves"
        )
    clips = CLIPS[backbone["init_args"]["kind"]]
    return Target(backbone, ClipSpec(**clips, clip_starts="linspace", short_video="loop"), None)

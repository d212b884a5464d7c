"""`videonorm convert`, as a person calls it."""

import shutil

import pytest
import torch
import yaml

from videonorm.convert import main, read_overlays
from videonorm.errors import UserError
from videonorm.evaluation.checkpoint import build_backbone, load_checkpoint
from videonorm.evaluation.export import export_checkpoint

CLIPS = torch.randn(1, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
NORM = "videonorm.layers.BatchNorm3d"


def resnet(norm=NORM, conv="torch.nn.Conv3d", **arguments):
    arguments |= {"depth": 10, "num_classes": 4, "width": 4, "norm": norm, "conv": conv}
    arguments["zero_init_residual"] = False
    return {"class_path": "videonorm.models.ResNet3d", "init_args": arguments}


BACKBONES = {
    "bn": resnet({"class_path": NORM, "init_args": {"eps": 1.0e-3, "momentum": 0.2}}),
    "gn": resnet({"class_path": "videonorm.layers.GroupNorm3d", "init_args": {"num_groups": 2}}),
    "ws_recompute": resnet("videonorm.layers.LayerNorm3d", "videonorm.layers.WSConv3d", recompute="norms"),
    "vgg": {
        "class_path": "videonorm.models.VGG3d",
        "init_args": {"num_classes": 3, "width": 2, "norm": NORM},
    },
    "folded": {
        "class_path": "videonorm.models.folded",
        "init_args": {
            "network": resnet("videonorm.layers.LayerNorm3d", "videonorm.layers.WSConv3d"),
            "clips_shape": [1, 3, 4, 16, 16],
        },
    },
    "torchvision": {"class_path": "torchvision.models.video.mc3_18", "init_args": {"num_classes": 3}},
    "none": resnet("videonorm.layers.NoNorm"),
}


@pytest.fixture
def checkpoint(tmp_path):
    """Call it with a name of BACKBONES."""

    def write(name):
        torch.manual_seed(0)
        network = build_backbone(BACKBONES[name], "the test", trust=True)
        for module in network.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight)
            if getattr(module, "running_mean", None) is not None:
                torch.nn.init.normal_(module.running_mean, 0.5)
                torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
        clips = {"num_frames": 4, "frame_stride": 2, "crop_size": 16, "short_side": None}
        clips |= {"mean": [0.45] * 3, "std": [0.225] * 3, "clip_starts": "linspace", "short_video": "loop"}
        about = {"version": "0.1.0", "backbone": BACKBONES[name], "input": clips, "class_names": list("abc")}
        content = {
            "state_dict": {f"backbone.{key}": tensor for key, tensor in network.state_dict().items()},
            **{"global_step": 400, "epoch": 3, "optimizer_states": [], "videonorm": about},
        }
        path = tmp_path / f"{name}.ckpt"
        torch.save(content, path)
        return path

    return write


def logits(path, trust=False):
    with torch.no_grad():
        return load_checkpoint(path, trust).network(CLIPS)


def convert(ckpt, *options, out="out.ckpt"):
    out = ckpt.parent / out
    main(["--ckpt", str(ckpt), "--out", str(out), *map(str, options)])
    return out


def layers_of(path):
    network = load_checkpoint(path).network
    return {type(module).__name__ for module in network.modules() if not list(module.children())}


SWAPS = {  # checkpoint, overlays, layers that are there then, whether the function is kept
    "frozen": ("bn", ["frozen_bn"], "FrozenBatchNorm3d", True),
    "sub": ("bn", ["sub_bn"], "SubBatchNorm3d", True),
    "weight_norm": ("bn", ["wn"], "WeightNormConv3d", True),
    "gn_ws": ("bn", ["gn_ws"], "WSConv3d", False),
    "layer": ("gn", ["ln"], "LayerNorm3d", False),
    "last counts": ("vgg", ["gn", "ws_center_only", "sync_bn"], "WSCenterOnlyConv3d", False),
    "from recompute": ("ws_recompute", ["bn", "plain"], "BatchNorm3d", False),
    "to recompute": ("bn", ["gn_ws_recompute"], "GroupNorm3d", False),
}


FEW = ("frozen", "from recompute")


@pytest.mark.parametrize(
    ("name", "overlays", "layer", "kept"),
    [pytest.param(*of, id=key, marks=[] if key in FEW else [pytest.mark.slow]) for key, of in SWAPS.items()],
)
def test_norms_are_swapped_and_the_checkpoint_describes_what_it_holds(
    checkpoint, capsys, name, overlays, layer, kept
):
    old = checkpoint(name)
    content, before = old.read_bytes(), logits(old)
    out = convert(old, "--norm", *overlays)
    said = capsys.readouterr().out
    assert layer in layers_of(out)
    assert old.read_bytes() == content
    about = torch.load(out, weights_only=True)["videonorm"]
    assert about["backbone"]["class_path"] == BACKBONES[name]["class_path"]  # by its own constructor
    assert about["class_names"] == list("abc") and about["input"]["num_frames"] == 4
    assert about["converted"]["name"] == old.name and about["converted"]["norm"] == overlays
    assert ((logits(out) - before).abs().max() <= 1e-5 * before.abs().max()) == kept
    assert ("the function is kept" in said, "another function" in said) == (kept, not kept)


def test_what_is_said(checkpoint, capsys):
    old = checkpoint("bn")
    out = convert(old, "--norm", "gn_ws", "--fold")
    *lines, path = capsys.readouterr().out.splitlines()
    swapped = "weight: another function in evaluation"
    assert lines[0] == f"12 x Conv3d -> WSConv3d, keeps {swapped}"
    assert lines[1] == (
        "12 x BatchNorm3d -> GroupNorm3d, keeps weight bias, drops running_mean running_var "
        "num_batches_tracked: another function in evaluation"
    )
    assert lines[2].startswith("  logits of a random clip (1, 3, 4, 16, 16): ") and "another" in lines[2]
    assert lines[3] == "12 x WSConv3d -> Conv3d, keeps weight: the same function in evaluation"
    assert lines[4] == "stem.norm (GroupNorm3d) stays: it normalizes by statistics of the clip"
    assert lines[-1].endswith("the function is kept") and path == str(out)


@pytest.mark.parametrize(
    "name", ["vgg", *(pytest.param(of, marks=pytest.mark.slow) for of in ("bn", "torchvision"))]
)
def test_folded_into_the_convolutions(checkpoint, name, tmp_path):
    old = checkpoint(name)
    out = convert(old, "--fold")
    assert not any("BatchNorm" in layer for layer in layers_of(out))
    expected = logits(old)
    assert (logits(out) - expected).abs().max() <= 1e-5 * expected.abs().max()
    description = torch.load(out, weights_only=True)["videonorm"]["backbone"]
    if name == "torchvision":
        assert description["class_path"] == "videonorm.models.folded"
    else:
        assert description["init_args"]["norm"] == "videonorm.layers.NoNorm"
    if name == "vgg":
        export_checkpoint(out, tmp_path / "artifact")


@pytest.mark.slow
def test_a_network_that_takes_no_norm_is_described_by_what_was_done_to_it(checkpoint):
    swapped = convert(checkpoint("folded"), "--norm", "bn")
    description = torch.load(swapped, weights_only=True)["videonorm"]["backbone"]
    assert description["class_path"] == "videonorm.models.converted"
    assert description["init_args"]["network"] == BACKBONES["folded"]
    again = convert(swapped, "--norm", "sync_bn", out="again.ckpt")
    description = torch.load(again, weights_only=True)["videonorm"]["backbone"]
    assert description["init_args"]["network"] == BACKBONES["folded"]  # and not converted twice
    torch.testing.assert_close(logits(again), logits(swapped), rtol=1e-5, atol=1e-5)


def test_eps_and_momentum_move_and_are_described(checkpoint):
    out = convert(checkpoint("bn"), "--norm", "sub_bn")
    norm = load_checkpoint(out).network.stem.norm
    assert (norm.eps, norm.momentum, norm.num_splits) == (1e-3, 0.2, 2)


def test_an_overlay_is_a_file_or_the_name_of_one(checkpoint, tmp_path, monkeypatch):
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"model": {"backbone": {"init_args": {"norm": "mine.Norm"}}}}))
    assert read_overlays(["gn_ws", str(own)]) == {"norm": "mine.Norm", "conv": "videonorm.layers.WSConv3d"}
    with pytest.raises(UserError, match=r"--norm: norm \(mine.Norm\)"):
        convert(checkpoint("bn"), "--norm", own)
    here = tmp_path / "configs" / "norm"
    here.mkdir(parents=True)
    shutil.copy(own, here / "bn.yaml")
    monkeypatch.chdir(tmp_path)
    assert read_overlays(["bn"]) == {"norm": "mine.Norm"}


BAD = {
    "no such overlay": (
        ["--norm", "gn_sw"],
        r"--norm \(gn_sw\) must be a YAML file or one of .*mean gn_ws\?",
    ),
    "no such file": (["--norm", "x/gn.yaml"], r"--norm \(x/gn.yaml\) must be an existing file"),
    "other keys": (
        ["--norm", "last_only"],
        r"must be an overlay that changes norm and conv of model.backbone",
    ),
    "nothing to do": ([], r"--norm, --fold or --precise_bn must say what is to be done"),
    "no recipe": (["--precise_bn", "2"], r"--precise_bn and -c must be given together"),
    "groups": (["--norm", "bcn"], r"must take what --norm asks for: num_groups \(32\) must divide"),
}


@pytest.mark.parametrize(("options", "sentence"), BAD.values(), ids=BAD)
def test_a_mistake_is_a_sentence_and_nothing_is_written(checkpoint, options, sentence):
    old = checkpoint("bn")
    with pytest.raises(UserError, match=sentence):
        convert(old, *options)
    assert [path.name for path in old.parent.iterdir()] == ["bn.ckpt"]


def test_what_cannot_be_converted(checkpoint):
    old = checkpoint("none")
    with pytest.raises(
        UserError, match=r"must have a norm .* that this changes; stem.norm stays: it does not n"
    ):
        convert(old, "--norm", "bn")
    with pytest.raises(UserError, match=r"none.ckpt\) must have batch norms for --precise_bn"):
        convert(old, "--precise_bn", 2, "-c", "recipe.yaml")
    with pytest.raises(UserError, match=r"--out \(.*none.ckpt\) must be a new file"):
        convert(old, "--fold", out="none.ckpt")
    torch.save({"state_dict": {}, "global_step": 0}, old)
    with pytest.raises(UserError, match=r"must describe its model and clips, and 'videonorm' is missing"):
        convert(old, "--fold")


RECIPE = """
model:
  backbone: {class_path: videonorm.models.ResNet3d, init_args: {depth: 10, width: 4, num_classes: 4}}
  optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}
data:
  source:
    class_path: videonorm.data.MotionClips
    init_args: {root: ROOT, num_train: 8, num_val: 4, num_test: 4}
  num_frames: 4
  frame_stride: 1
  batch_size: 4
  crop_size: 16
trainer: {max_steps: 8, accelerator: cpu}
"""


@pytest.mark.slow
def test_statistics_of_the_training_clips_of_a_recipe(checkpoint, tmp_path, capsys):
    old, recipe = checkpoint("bn"), tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("ROOT", str(tmp_path / "motion")))
    before = load_checkpoint(old).network.state_dict()
    out = convert(old, "--norm", "frozen_bn", "--precise_bn", 3, "-c", recipe)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "12 x statistics of 3 batches of 4 clips of 4 frames" and "another function" in second
    for name, value in load_checkpoint(out).network.state_dict().items():
        assert torch.equal(value, before[name]) == ("running" not in name), name

"""`videonorm import`, as a user runs it."""

import functools
import os

import pytest
import safetensors.torch
import torch
from pytorchvideo.models import hub
from torch import nn
from torchvision.models import video

from videonorm.data.clip_spec import ClipSpec
from videonorm.errors import UserError
from videonorm.evaluation.checkpoint import Checkpoint, build_backbone, load_checkpoint, save_checkpoint
from videonorm.evaluation.export import export_checkpoint
from videonorm.evaluation.export import main as export
from videonorm.frontier import recipe as recipe_module
from videonorm.frontier.recipe import read_recipe
from videonorm.import_weights import import_weights, main
from videonorm.models import ResNet3d, load_foreign


def randomized(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.ndim == 1:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
            elif name.endswith("proj.weight"):
                tensor.mul_(10)
    return model.eval()


@pytest.fixture(scope="module")
def theirs():
    """PyTorchVideo's slow_r50, narrow, with a head for any clip."""
    model = hub.slow_r50(stem_dim_out=2, model_num_class=3)
    head = model.blocks[-1]
    head.pool, head.dropout = nn.AdaptiveAvgPool3d(1), None
    return randomized(model)


@pytest.fixture
def file(theirs, tmp_path):
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "SLOW.pyth")
    return tmp_path / "SLOW.pyth"


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.randn(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1)))


def test_weights_that_imply_their_network(file, theirs, tmp_path, capsys):
    to = tmp_path / "slow.ckpt"
    main([str(file), "--to", str(to)])
    report, made = capsys.readouterr().out.splitlines()
    tensors = len(theirs.state_dict())
    assert report.startswith(f"weights ({file}), PyTorchVideo: {tensors} tensors mapped")
    assert report.endswith("new: nothing; left over: nothing")
    assert made == f"{to}: ResNet3d, clips of 8x8 frames, 256 x 256"
    read = load_checkpoint(to)
    assert read.backbone["init_args"] == {"depth": 50, "kind": "slow", "num_classes": 3, "width": 2}
    torch.testing.assert_close(logits(read.network), logits(theirs), atol=1e-5, rtol=1e-5)
    again = ResNet3d(50, "slow", num_classes=3, width=2)
    load_foreign(again, to)
    assert all(torch.equal(of, read.network.state_dict()[name]) for name, of in again.state_dict().items())

    before = to.read_bytes()
    with pytest.raises(UserError, match=r"to \(.*slow.ckpt\) must be a new file"):
        main([str(file), "--to", str(to)])
    assert to.read_bytes() == before


@functools.cache
def resolved(configs):
    return read_recipe(configs)


@pytest.fixture(autouse=True)
def _read_once(monkeypatch):
    """`fit` takes seconds to resolve a recipe: it does so once for all tests here."""
    monkeypatch.setattr(recipe_module, "read_recipe", lambda configs: resolved(tuple(configs)))


RECIPE = ["-c", "configs/motion_r10.yaml", "-c", "configs/norm/bn.yaml", "-c", "configs/conv/plain.yaml"]


def test_weights_for_the_network_of_a_recipe(tmp_path, capsys):
    file, to = tmp_path / "w.safetensors", tmp_path / "start.ckpt"
    model = ResNet3d(10, "mc3", num_classes=7, width=16)
    safetensors.torch.save_file(model.state_dict(), file)
    with pytest.raises(
        UserError, match=r"-c must name the recipe of a network for weights \(.*w.safetensors\)"
    ):
        main([str(file), "--to", str(to)])
    given = [str(file), "--to", str(to), *RECIPE]
    with pytest.raises(
        UserError, match="must have the model's 4 classes, and has 7: --new head starts another head"
    ):
        main(given)
    assert os.listdir(tmp_path) == ["w.safetensors"]
    main([*given, "--new", "head"])
    report, made = capsys.readouterr().out.splitlines()
    assert report.endswith("new: head.weight, head.bias; left over: head.bias, head.weight"), report
    read = load_checkpoint(to)
    assert (read.input.num_frames, read.input.crop_size, read.class_names) == (16, 32, None)
    assert torch.equal(read.network.stem.conv.weight, model.stem.conv.weight)


def test_a_checkpoint_of_ours(tmp_path):
    ckpt, to = tmp_path / "ours.ckpt", tmp_path / "imported.ckpt"
    group_norm = {"class_path": "videonorm.layers.GroupNorm3d", "init_args": {"num_groups": 4}}
    init_args = {"depth": 10, "num_classes": 3, "width": 8, "norm": group_norm}
    init_args["conv"] = "videonorm.layers.WSConv3d"
    backbone = {"class_path": "videonorm.models.ResNet3d", "init_args": init_args}
    clips = ClipSpec(4, 2, 32, 40, [0.45] * 3, [0.225] * 3, "linspace", "loop")
    network = randomized(build_backbone(backbone, "the test"))
    save_checkpoint(ckpt, Checkpoint(network, backbone, clips, ["left", "right", "still"], 7, 1, "0.1.0"))
    import_weights(ckpt, to)
    theirs, ours = load_checkpoint(ckpt), load_checkpoint(to)
    assert (ours.input, ours.class_names, ours.backbone) == (
        theirs.input,
        theirs.class_names,
        theirs.backbone,
    )
    assert torch.equal(logits(ours.network), logits(theirs.network))


@pytest.mark.slow
@pytest.mark.parametrize("make", [video.r3d_18, video.mc3_18, video.r2plus1d_18])
def test_torchvision_of_full_size(make, tmp_path):
    theirs = randomized(make(num_classes=5))
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    main([str(tmp_path / "weights.pth"), "--to", str(tmp_path / "ours.ckpt")])
    read = load_checkpoint(tmp_path / "ours.ckpt")
    assert (read.input.num_frames, read.input.frames_per_second, read.input.crop_size) == (16, 15.0, 112)
    expected = logits(theirs)
    scale = expected.abs().max().item()
    torch.testing.assert_close(logits(read.network), expected, atol=1e-5 * scale, rtol=1e-5)


@pytest.mark.slow
def test_out_again(file, theirs, tmp_path):
    import_weights(file, tmp_path / "slow.ckpt")
    export_checkpoint(tmp_path / "slow.ckpt", tmp_path / "exported")
    import_weights(tmp_path / "exported", tmp_path / "again.ckpt")
    network = load_checkpoint(tmp_path / "again.ckpt").network
    torch.testing.assert_close(logits(network), logits(theirs), atol=1e-5, rtol=1e-5)


class Code:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize(
    "command",
    [
        lambda path, out: main([path, "--to", out]),
        lambda path, out: main([path, "--to", out, *RECIPE]),
        lambda path, out: export(["--ckpt", path, "--out", out]),
    ],
    ids=["import", "import_recipe", "export"],
)
def test_code_is_refused_by_name(command, tmp_path):
    path, out, mark = tmp_path / "evil.ckpt", tmp_path / "out", tmp_path / "mark"
    torch.save({"state_dict": {}, "global_step": 1, "videonorm": Code(mark)}, path)
    with pytest.raises(
        UserError, match=r"\(.*evil.ckpt\) must be .*, without code in it, and calls posix.system$"
    ):
        command(str(path), str(out))
    assert sorted(os.listdir(tmp_path)) == ["evil.ckpt"]

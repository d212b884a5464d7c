import hashlib
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import videonorm
from videonorm.data.clip_spec import ClipSpec
from videonorm.errors import UserError
from videonorm.evaluation.artifact import Card, load_artifact
from videonorm.evaluation.checkpoint import build_backbone, load_checkpoint
from videonorm.evaluation.export import export_checkpoint, main
from videonorm.evaluation.program import save_program, trace

CPU = torch.device("cpu")
SHAPES = [(1, 1), (3, 2), (1, 9), (2, 16)]  # B, T; the checkpoint's clips have T = 4
Checkpoint = Callable[..., Path]


def largest_difference(one: Any, other: Any, shape: tuple[int, int]) -> float:
    num_clips, num_frames = shape
    clips = torch.randn(num_clips, 3, num_frames, 32, 32)
    with torch.inference_mode():
        logits = other(clips)
        assert 1e-3 < logits.abs().max() < 10  # or any two would agree, or none
        return (one(clips) - logits).abs().max().item()


@pytest.mark.parametrize("name", ["bn", "gn", "gn_ws", "ws", "bcn_wn"])
def test_folder_gives_the_checkpoints_logits(checkpoint: Checkpoint, tmp_path: Path, name: str) -> None:
    ckpt = checkpoint(name)
    export_checkpoint(ckpt, tmp_path / "artifact")
    network = load_artifact(tmp_path / "artifact", CPU).network
    for shape in SHAPES:
        assert largest_difference(network, load_checkpoint(ckpt).network, shape) == 0


def check_program(ckpt: Path, folder: Path, name: str) -> None:
    program = folder / "model.pt2"
    calls = [node.target for node in torch.export.load(program).graph.nodes if node.op == "call_function"]
    assert {call.namespace for call in calls if isinstance(call, torch._ops.OpOverload)} == {"aten"}
    folded = name in ("bn", "ws", "frozen")
    assert (torch.ops.aten.rsqrt.default in calls) == (not folded)  # group norm's
    names = [call.name() for call in calls if isinstance(call, torch._ops.OpOverload)]
    assert not [name for name in names if "batch_norm" in name]
    assert str(Path(videonorm.__file__).parent).encode() not in program.read_bytes()
    artifact = load_artifact(program, CPU)
    assert artifact.card == load_artifact(folder, CPU).card
    network = artifact.network
    for shape in SHAPES:
        assert largest_difference(network, load_checkpoint(ckpt).network, shape) < 1e-4
    source, clips = load_checkpoint(ckpt).network, torch.randn(2, 3, 4, 32, 32)
    with torch.inference_mode():
        exact = source(clips)
        with torch.autocast("cpu", torch.bfloat16):
            of_program, of_source = network(clips), source(clips)
    assert of_program.dtype == torch.bfloat16
    # Folded weights and group norm's statistics are rounded otherwise, and no worse.
    assert (of_program - exact).abs().max() <= 2 * (of_source - exact).abs().max() + 0.01


def test_program_gives_the_checkpoints_logits(exported: SimpleNamespace) -> None:
    check_program(exported.ckpt, exported.folder, "gn_ws")


@pytest.mark.parametrize(
    "name", ["bn", *(pytest.param(of, marks=pytest.mark.slow) for of in ("gn", "bcn_wn", "ws", "frozen"))]
)
def test_program_gives_the_checkpoints_logits_at_any_b_and_t(
    checkpoint: Checkpoint, tmp_path: Path, name: str
) -> None:
    ckpt = checkpoint(name)
    export_checkpoint(ckpt, tmp_path / "artifact", ["pt2"])
    check_program(ckpt, tmp_path / "artifact", name)


class CastsAndPools(nn.Module):
    """What others' networks do: a cast, and pools that round T down and up."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 1)
        self.pools = nn.Sequential(
            nn.MaxPool3d((3, 1, 1), (2, 1, 1), (1, 0, 0)), nn.MaxPool3d(2, ceil_mode=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pools(self.conv(x).to(self.conv.weight.dtype)).mean((2, 3, 4))


def test_neither_dtype_nor_number_of_frames_is_bound(checkpoint: Checkpoint, tmp_path: Path) -> None:
    read = load_checkpoint(checkpoint("bn"))
    network = CastsAndPools().eval()
    card = Card(read.backbone, read.input, 4, None)
    save_program(trace(network, card), card, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for num_frames in range(1, 10):
        assert largest_difference(program, network, (2, num_frames)) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert largest_difference(program, network, (2, 4)) < 0.01


def test_a_network_that_sets_a_limit_becomes_no_program(checkpoint: Checkpoint) -> None:
    read = load_checkpoint(checkpoint("bn"))
    network = nn.Sequential(nn.Conv3d(3, 4, (3, 1, 1)), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    message = (
        r"backbone \(videonorm.*\) must take any number of clips and frames .*: it takes 3 to int_oo of one"
    )
    with pytest.raises(UserError, match=message):
        trace(network, Card(read.backbone, read.input, 4, None))


class Factor(nn.Module):
    """Is the network that it holds, for one clip alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(clips)
        return logits * clips.shape[0]


def test_a_program_is_tried_with_other_clips(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trace_wrong(network: nn.Module, card: Card, any_size: bool) -> torch.export.ExportedProgram:
        return trace(Factor(network), card, any_size)

    monkeypatch.setattr("videonorm.evaluation.program.trace", trace_wrong)
    with pytest.raises(UserError, match=r"model.pt2 \(logits .* off\) must agree with ckpt"):
        export_checkpoint(checkpoint("bn"), tmp_path / "artifact", ["pt2"])
    assert not (tmp_path / "artifact").exists()


def test_pixels_are_free_where_asked(checkpoint: Checkpoint, tmp_path: Path) -> None:
    read, path = load_checkpoint(checkpoint("bn")), tmp_path / "model.pt2"
    card = Card(read.backbone, read.input, 3, None)
    save_program(trace(read.network, card, any_size=True), card, path)
    networks = load_artifact(path, CPU).network, torch.export.load(path).module()
    for shape in ((2, 3, 3, 32, 32), (1, 3, 1, 17, 49)):
        clips = torch.randn(shape)
        with torch.inference_mode():
            for network in networks:
                torch.testing.assert_close(network(clips), read.network(clips), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["r3d", "r2plus1d", "mc3", "c2d", "i3d", "slow"])
@pytest.mark.parametrize("name", ["gn_ws", "frozen"])
def test_every_kind_of_network(tmp_path: Path, write_checkpoint: Any, kind: str, name: str) -> None:
    """In all formats, at any size, B and T; the command itself compares."""
    pytest.importorskip("onnxscript", reason="of the extra [onnx]")
    own = {"norm": {"class_path": "videonorm.layers.GroupNorm3d", "init_args": {"channels_per_group": 1}}}
    ckpt, folder = (
        write_checkpoint(tmp_path, name, kind, **(own if name == "gn_ws" else {})),
        tmp_path / "out",
    )
    main(["--ckpt", str(ckpt), "--out", str(folder), "--format", "pt2", "onnx", "--any_size"])
    for file in ("model.pt2", "model.onnx"):
        network = load_artifact(folder / file, CPU).network
        for shape in ((1, 3, 1, 32, 32), (3, 3, 9, 48, 31), (2, 3, 20, 64, 64)):
            clips = torch.randn(shape)
            with torch.inference_mode():
                wanted = load_checkpoint(ckpt).network(clips)
            torch.testing.assert_close(network(clips), wanted, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gn_ws", "bn"])
def test_i3d_r50(tmp_path: Path, write_checkpoint: Any, name: str) -> None:
    """At its own width and at a crop of 112."""
    pytest.importorskip("onnxscript", reason="of the extra [onnx]")
    own = {"depth": 50, "width": 64, "num_classes": 400}
    ckpt = write_checkpoint(tmp_path, name, "i3d", crop_size=112, noise=0.02, **own)
    export_checkpoint(ckpt, tmp_path / "artifact", ["pt2", "onnx"])
    for file in ("model.pt2", "model.onnx"):
        network = load_artifact(tmp_path / "artifact" / file, CPU).network
        for num_clips, num_frames in ((1, 5), (2, 8)):
            clips = torch.randn(num_clips, 3, num_frames, 112, 112)
            with torch.inference_mode():
                wanted = load_checkpoint(ckpt).network(clips)
                exact = load_checkpoint(ckpt).network.double()(clips.double())
            assert 1e-2 < exact.abs().max() < 100
            # So many layers of fp32 round by 1e-4 themselves, in whichever order they add.
            own, off = ((logits - exact).abs().max() for logits in (wanted, network(clips)))
            assert off <= 2 * own + 1e-5, (off, own)


def test_onnx_gives_the_checkpoints_logits_at_any_b_and_t(exported: SimpleNamespace) -> None:
    if not (exported.folder / "model.onnx").exists():
        pytest.skip("needs the extra [onnx]")
    network = load_artifact(exported.folder / "model.onnx", CPU).network
    for shape in SHAPES:
        assert largest_difference(network, load_checkpoint(exported.ckpt).network, shape) < 1e-4


def test_onnx_without_its_packages_is_named(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"format \(onnx\) must have onnx\w* installed: pip install"):
        export_checkpoint(checkpoint("bn"), tmp_path / "artifact", ["onnx"])
    assert not (tmp_path / "artifact").exists()


def test_card_and_provenance(
    checkpoint: Checkpoint, backbone: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    ckpt, out = checkpoint("gn_ws"), tmp_path / "runs" / "artifact"
    export_checkpoint(ckpt, out)
    names = [file.name for file in sorted(out.iterdir())]
    assert names == ["model.yaml", "provenance.json", "weights.safetensors"]
    card = yaml.safe_load((out / "model.yaml").read_text())
    assert card == {
        "backbone": backbone("gn_ws"),
        "input": {
            "num_frames": 4,
            "frame_stride": 2,
            "crop_size": 32,
            "short_side": None,
            "mean": [0.45, 0.45, 0.45],
            "std": [0.225, 0.225, 0.225],
            "clip_starts": "linspace",
            "short_video": "loop",
            "frames_per_second": None,
        },
        "num_classes": 3,
        "class_names": ["left", "right", "still"],
    }
    provenance = json.loads((out / "provenance.json").read_text())
    sha256 = hashlib.sha256(ckpt.read_bytes()).hexdigest()
    assert provenance["checkpoint"] == {
        "name": "gn_ws.ckpt",
        "sha256": sha256,
        "step": 400,
        "epoch": 3,
        "videonorm": "0.1.0",
        "averaged_steps": None,
    }
    assert provenance["norms"]["GroupNorm3d(64, num_groups=4, eps=1e-05)"] == 1
    assert all(conv.startswith("WSConv3d") for conv in provenance["convolutions"])
    assert provenance["versions"]["torch"] == torch.__version__.split("+")[0]
    assert provenance["files"]["weights.safetensors"]["largest_logit_difference"] == 0
    assert not [file for file in out.parent.iterdir() if file != out]


def test_command(checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "artifact"
    main(["--ckpt", str(checkpoint("bn")), "--out", str(out), "--format", "safetensors"])
    assert capsys.readouterr().out == f"{out}: model.yaml, provenance.json, weights.safetensors\n"


def test_existing_files_are_not_touched(checkpoint: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "artifact"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"out \(.*artifact\) must be a new or empty folder"):
        export_checkpoint(checkpoint("bn"), out)
    assert [file.name for file in out.iterdir()] == ["notes.txt"]


def test_the_place_is_tried_before_the_work(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="exists|Not a directory"):
        export_checkpoint(tmp_path / "not looked at.ckpt", tmp_path / "file" / "artifact")


def test_a_full_disk_is_named(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own writer of archives says of one that a position is unexpected."""
    monkeypatch.setattr(torch.export, "save", lambda program, file, **_: zipfile.ZipFile(file, "w").close())
    read = load_checkpoint(checkpoint("bn"))
    with pytest.raises(OSError, match="No space left on device"):
        save_program(nn.Module(), Card(read.backbone, read.input, 4, None), Path("/dev/full"))


def test_failure_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckpt = checkpoint("bn")
    monkeypatch.setattr("videonorm.evaluation.export.TOLERANCE", -1.0)
    with pytest.raises(UserError, match=r"weights.safetensors \(logits 0.0e\+00 off\) must agree with ckpt"):
        export_checkpoint(ckpt, tmp_path / "artifact")
    assert list(tmp_path.iterdir()) == [ckpt]


@pytest.mark.slow  # that it can be traced, tests/training/test_one_accuracy.py shows
def test_program_of_a_network_that_ends_in_a_single_site(
    backbone: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    """At 16 pixels and few frames the last stage is 1 x 1 x 1, a size that tracing would fix."""
    network = build_backbone(backbone("gn"), "the test").eval()
    spec = ClipSpec(4, 1, 16, None, [0.45] * 3, [0.225] * 3, "linspace", "loop")
    card = Card(backbone("gn"), spec, 3, None)
    save_program(trace(network, card), card, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for shape in [(1, 1), (2, 4), (1, 9), (3, 33)]:
        clips = torch.randn(shape[0], 3, shape[1], 16, 16)
        torch.testing.assert_close(program(clips), network(clips), atol=1e-5, rtol=0)

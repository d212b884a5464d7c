import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
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


@pytest.mark.parametrize("name", ["bn", "gn", "gn_ws", "bcn_wn", pytest.param("ws", marks=pytest.mark.slow)])
def test_program_gives_the_checkpoints_logits_at_any_b_and_t(
    checkpoint: Checkpoint, tmp_path: Path, name: str
) -> None:
    ckpt = checkpoint(name)
    export_checkpoint(ckpt, tmp_path / "artifact", ["pt2"])
    program = tmp_path / "artifact" / "model.pt2"
    calls = [node.target for node in torch.export.load(program).graph.nodes if node.op == "call_function"]
    assert {call.namespace for call in calls if isinstance(call, torch._ops.OpOverload)} == {"aten"}
    assert (torch.ops.aten.rsqrt.default in calls) == (name not in ("bn", "ws"))  # group norm's
    assert str(Path(videonorm.__file__).parent).encode() not in program.read_bytes()
    artifact = load_artifact(program, CPU)
    assert artifact.card == load_artifact(tmp_path / "artifact", CPU).card
    network = artifact.network
    for shape in SHAPES:
        assert largest_difference(network, load_checkpoint(ckpt).network, shape) < 1e-4
    with torch.autocast("cpu", torch.bfloat16):
        difference = largest_difference(network, load_checkpoint(ckpt).network, (2, 4))
        # Group norm's statistics are rounded otherwise; of all else the program does the same to the bit.
        assert difference == 0 if name in ("bn", "ws") else difference < 0.05
        assert network(torch.randn(1, 3, 4, 32, 32)).dtype == torch.bfloat16


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


def test_neither_dtype_nor_number_of_frames_is_bound(checkpoint: Checkpoint) -> None:
    read = load_checkpoint(checkpoint("bn"))
    network = CastsAndPools().eval()
    program = trace(network, Card(read.backbone, read.input, 4, None)).module()
    for num_frames in range(1, 10):
        assert largest_difference(program, network, (2, num_frames)) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert largest_difference(program, network, (2, 4)) < 0.01


def test_a_network_that_sets_a_limit_becomes_no_program(checkpoint: Checkpoint) -> None:
    read = load_checkpoint(checkpoint("bn"))
    network = nn.Sequential(nn.Conv3d(3, 4, (3, 1, 1)), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    message = r"backbone \(videonorm.*\) must take any number of clips and frames .*: it takes 3 to int_oo"
    with pytest.raises(UserError, match=message):
        trace(network, Card(read.backbone, read.input, 4, None))


def test_program_runs_without_videonorm(checkpoint: Checkpoint, tmp_path: Path) -> None:
    ckpt = checkpoint("gn_ws")
    export_checkpoint(ckpt, tmp_path / "artifact", ["pt2"])
    clips = torch.randn(3, 3, 6, 32, 32)
    torch.save(clips, tmp_path / "clips.pt")
    script = f"""
import sys
sys.modules["videonorm"] = None  # an import of it fails
import torch
network = torch.export.load({str(tmp_path / "artifact" / "model.pt2")!r}).module()
torch.save(network(torch.load({str(tmp_path / "clips.pt")!r})), {str(tmp_path / "logits.pt")!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    torch.testing.assert_close(
        torch.load(tmp_path / "logits.pt"), load_checkpoint(ckpt).network(clips), atol=1e-4, rtol=0
    )


def test_onnx_gives_the_checkpoints_logits_at_any_b_and_t(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="of the extra [onnx]")
    ckpt = checkpoint("gn_ws")
    export_checkpoint(ckpt, tmp_path / "artifact", ["onnx"])
    network = load_artifact(tmp_path / "artifact" / "model.onnx", CPU).network
    for shape in SHAPES:
        assert largest_difference(network, load_checkpoint(ckpt).network, shape) < 1e-4


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
    monkeypatch.setattr(torch.export, "save", lambda program, file, **_: file.write(b"a program"))
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
def test_program_of_a_network_that_ends_in_a_single_site(backbone: Callable[[str], dict[str, Any]]) -> None:
    """At 16 pixels and few frames the last stage is 1 x 1 x 1, a size that tracing would fix."""
    network = build_backbone(backbone("gn"), "the test").eval()
    spec = ClipSpec(4, 1, 16, None, [0.45] * 3, [0.225] * 3, "linspace", "loop")
    program = trace(network, Card(backbone("gn"), spec, 3, None)).module()
    for shape in [(1, 1), (2, 4), (1, 9), (3, 33)]:
        clips = torch.randn(shape[0], 3, shape[1], 16, 16)
        torch.testing.assert_close(program(clips), network(clips), atol=1e-5, rtol=0)

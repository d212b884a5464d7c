import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from videonorm.data.clip_spec import ClipSpec
from videonorm.errors import UserError
from videonorm.evaluation.artifact import Card, load_artifact

onnx = pytest.importorskip("onnx", reason="of the extra [onnx]")
pytest.importorskip("onnxruntime", reason="of the extra [onnx]")

CPU = torch.device("cpu")
CARD = Card(
    {"class_path": "a.Net"}, ClipSpec(4, 1, 8, None, [0.45] * 3, [0.225] * 3, "linspace", "loop"), 3, None
)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Call it for a network that averages its clips (B, 3, T, H, W) over T, H and W, in a file by itself."""

    def write(
        shape: Sequence[int | str] = ("B", 3, "T", 8, 8),
        card: str | None = json.dumps(dataclasses.asdict(CARD)),
    ) -> Path:
        float32 = onnx.TensorProto.FLOAT
        clips = onnx.helper.make_tensor_value_info("x", float32, shape)
        logits = onnx.helper.make_tensor_value_info("y", float32, ["B", 3])
        axes = onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [len(shape) - 2], range(2, len(shape)))
        mean = onnx.helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)
        graph = onnx.helper.make_graph([mean], "mean", [clips], [logits], [axes])
        opsets = [onnx.helper.make_opsetid("", 18)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        if card is not None:
            onnx.helper.set_model_props(model, {"videonorm": card})
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write


def refused(path: Path, message: str, clips: torch.Tensor | None = None) -> None:
    with pytest.raises(UserError, match=message) as caught:
        artifact = load_artifact(path, CPU)
        if clips is not None:
            artifact.network(clips)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_clips_of_any_number_and_length(write: Write) -> None:
    artifact = load_artifact(write(), CPU)
    assert artifact.card == CARD
    for shape in ((2, 3, 5, 8, 8), (1, 3, 1, 8, 8)):
        clips = torch.randn(shape).to(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(artifact.network(clips), clips.mean((2, 3, 4)))
    for size in (16, 7):
        with pytest.raises(UserError, match=r"clips \(1, 3, 4, .* must have the program's size, 8 x 8"):
            artifact.network(torch.zeros(1, 3, 4, size, 8))
    any_size = load_artifact(write(("B", 3, "T", "H", "W")), CPU)
    clips = torch.randn(2, 3, 5, 7, 9)
    torch.testing.assert_close(any_size.network(clips), clips.mean((2, 3, 4)))


def test_files_that_are_not_ours(write: Write) -> None:
    refused(write(("B", 3, 8, 8)), r"must take one input, clips .*B, 3, T, H, W.*, and takes x tensor.* to 1")
    refused(write(card=None), r"must be made by `videonorm export`, with a model card under 'videonorm'")
    refused(write(card="{"), "model.onnx:videonorm must be JSON")
    refused(write(card="[]"), "model.onnx:videonorm must be a model card")
    other = dataclasses.replace(CARD, input=dataclasses.replace(CARD.input, crop_size=16))
    refused(write(card=json.dumps(dataclasses.asdict(other))), "and has 16 instead of 8 x 8")
    # Of a fixed number of frames, which onnxruntime tells.
    refused(write(("B", 3, 4, 8, 8)), r"must run on clips of the shape \(1, 3, 5", torch.zeros(1, 3, 5, 8, 8))
    good = write().read_bytes()
    for end in (0, 10, len(good) // 2, len(good) - 1):
        path = write()
        path.write_bytes(good[:end])
        refused(path, "must be an ONNX file that onnxruntime can load")


def test_what_onnxruntime_cannot_do_is_said(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write()
    network = load_artifact(path, CPU).network
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(UserError, match=r"precision \(bf16\) must be"):
        network(torch.zeros(1, 3, 4, 8, 8))
    with pytest.raises(
        UserError, match=r"device \(cuda:1\) must be cpu for .*model.onnx: onnxruntime has no"
    ):
        load_artifact(path, torch.device("cuda:1"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(path, r"must have onnxruntime installed: pip install 'videonorm\[onnx\]'")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from videonorm.data.clip_spec import ClipSpec
from videonorm.errors import UserError
from videonorm.evaluation.artifact import load_artifact
from videonorm.evaluation.checkpoint import load_checkpoint
from videonorm.evaluation.export import export_checkpoint

CPU = torch.device("cpu")
Checkpoint = Callable[..., Path]


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ckpt \(.*none.ckpt\) must be an existing file"):
        load_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 and no more"])
def test_unreadable_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=r"ckpt \(.*bad.ckpt\) must be a checkpoint that torch can read"):
        load_checkpoint(tmp_path / "bad.ckpt")


def test_truncated_checkpoint(checkpoint: Checkpoint) -> None:
    path = checkpoint("bn")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="must be a checkpoint that torch can read"):
        load_checkpoint(path)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('code of a checkpoint ran')",)


def test_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({"state_dict": Harmful()}, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match="must be a checkpoint that torch can read"):
        load_checkpoint(tmp_path / "bad.ckpt")


def test_foreign_checkpoint(tmp_path: Path) -> None:
    torch.save({"state_dict": {"fc.weight": torch.zeros(2)}}, tmp_path / "r3d.pth")
    with pytest.raises(UserError, match="must be a checkpoint written by `videonorm fit`"):
        load_checkpoint(tmp_path / "r3d.pth")


def test_checkpoint_of_something_else_than_tensors(checkpoint: Checkpoint) -> None:
    for weights in ({"backbone.head.weight": 3}, {1: torch.zeros(2)}):
        with pytest.raises(UserError, match="must be a checkpoint written by `videonorm fit`"):
            load_checkpoint(checkpoint("bn", state_dict=weights))
    for average in ({"n_averaged": "many"}, {"n_averaged": torch.tensor([1, 2])}, {"n_averaged": 0}):
        broken = checkpoint("bn", averaging_state=average, current_model_state=5)
        with pytest.raises(UserError, match=r"bn.ckpt\) must describe its model and clips \("):
            load_checkpoint(broken)


def test_checkpoint_without_its_description(checkpoint: Checkpoint) -> None:
    with pytest.raises(UserError, match="must describe its model and clips, and 'backbone' is missing"):
        load_checkpoint(checkpoint("bn", videonorm={"version": "0.1.0"}))


def test_weights_that_do_not_fit(checkpoint: Checkpoint) -> None:
    path = checkpoint("bn")
    content = torch.load(path, weights_only=True)
    weights = content["state_dict"]

    def refused(changed: dict[str, torch.Tensor], message: str) -> None:
        torch.save({**content, "state_dict": changed}, path)
        with pytest.raises(UserError, match=message):
            load_checkpoint(path)

    without = {name: weight for name, weight in weights.items() if name != "backbone.head.bias"}
    refused(without, "must hold every weight of the model, and head.bias is missing")
    refused(
        {**weights, "backbone.more": torch.zeros(1)}, "must hold no weight that the model lacks, as more is"
    )
    refused({**weights, "backbone.head.bias": torch.zeros(4)}, r"head.bias is \(4,\) instead of \(3,\)")


def test_paths_that_are_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"artifact \(.*empty\) must hold .*, and model.yaml is missing"):
        load_artifact(tmp_path / "empty", CPU)
    (tmp_path / "model.pth").touch()
    for name in ("none", "none.pt2", "model.pth"):
        with pytest.raises(
            UserError, match=rf"artifact \(.*{name}\) must be a folder made by `videonorm export`"
        ):
            load_artifact(tmp_path / name, CPU)


def test_damaged_artifact(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    export_checkpoint(checkpoint("gn"), folder)
    card = yaml.safe_load((folder / "model.yaml").read_text())

    def refused(file: str, content: str, message: str) -> None:
        whole = (folder / file).read_bytes()
        (folder / file).write_text(content)
        with pytest.raises(UserError, match=message) as caught:
            load_artifact(folder, CPU)
        assert "\n" not in str(caught.value)
        (folder / file).write_bytes(whole)

    def refused_card(change: dict[str, Any], message: str) -> None:
        refused("model.yaml", yaml.safe_dump({**card, **change}), message)

    refused("weights.safetensors", "no weights", "weights.safetensors must be a safetensors file")
    refused("model.yaml", "a: [1", "model.yaml must be YAML")
    refused("model.yaml", "[" * 3000, "model.yaml must be YAML")
    refused("model.yaml", "!!python/object/apply:os.getcwd []", "model.yaml must be YAML")
    refused("model.yaml", "a: &a [x, x]\nb: &b [*a, *a]", "model.yaml must be written out in full")
    refused("model.yaml", "- 1", "model.yaml must be a model card, with a `backbone` entry")
    refused_card({"num_classes": "many"}, "model.yaml must be a model card .*num_classes")
    refused_card({"num_classes": 2}, "must have a class for each of its class_names, and has 2 for 3")
    refused_card({"input": {**card["input"], "short_video": "stop"}}, "short_video")
    refused_card({"input": {**card["input"], "crop_size": 0}}, "must have a crop_size of at least 1")
    refused_card({"colour": "blue"}, "colour")
    typo = {**card["backbone"], "class_path": "videonorm.models.ResNet3D"}
    refused_card({"backbone": typo}, "must describe a backbone that can be built .*ResNet3D")
    refused_card({"backbone": {**card["backbone"], "init_args": {"depth": 10, "num_classes": 3}}}, "weights")
    weights = (folder / "weights.safetensors").read_bytes()
    for end in (0, 7, 100, len(weights) - 1):
        (folder / "weights.safetensors").write_bytes(weights[:end])
        with pytest.raises(UserError, match="weights.safetensors must be a safetensors file"):
            load_artifact(folder, CPU)
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "model.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="model.yaml must be YAML .'utf-8' codec"):
        load_artifact(folder, CPU)
    (folder / "model.yaml").write_text(yaml.safe_dump(card))
    load_artifact(folder, CPU)


def test_weights_by_themselves(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """They carry the card; and a checkpoint is checked as a card is."""
    ckpt = checkpoint("gn")
    export_checkpoint(ckpt, tmp_path / "artifact")
    path = tmp_path / "alone.safetensors"
    (tmp_path / "artifact" / "weights.safetensors").rename(path)
    alone, source = load_artifact(path, CPU), load_artifact(ckpt, CPU)
    assert alone.card == source.card
    clips = torch.randn(2, 3, 5, 32, 32)
    with torch.inference_mode():
        assert torch.equal(alone.network(clips), source.network(clips))
    weights = safetensors.torch.load_file(path)
    safetensors.torch.save_file(weights, path)
    with pytest.raises(
        UserError, match="alone.safetensors must be made by `videonorm export`, with a model "
    ):
        load_artifact(path, CPU)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="alone.safetensors must be a safetensors file"):
        load_artifact(path, CPU)
    content = torch.load(ckpt, weights_only=True)
    for change, message in (
        (
            {"class_names": ["a", "b", "c", "d"]},
            r"ckpt .* class for each of its class_names, and has 3 for 4",
        ),
        ({"class_names": 3}, r"ckpt .* must be a model card .*class_names"),
        ({"input": {**content["videonorm"]["input"], "mean": "x"}}, r"ckpt .* must be a model card .*mean"),
        ({"input": {**content["videonorm"]["input"], "crop_size": -1}}, r"must make logits .* of clips .*-1"),
    ):
        torch.save({**content, "videonorm": {**content["videonorm"], **change}}, ckpt)
        with pytest.raises(UserError, match=message):
            load_artifact(ckpt, CPU)
    torch.save({**content, "state_dict": 1}, ckpt)
    with pytest.raises(UserError, match="must be a checkpoint written by `videonorm fit`"):
        load_artifact(ckpt, CPU)


def test_cards_say_how_far_frames_are_apart(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path, folder = checkpoint("gn"), tmp_path / "artifact"
    assert load_checkpoint(path).input.frames_per_second is None  # an earlier one, which does not know it
    export_checkpoint(path, folder)
    card = yaml.safe_load((folder / "model.yaml").read_text())

    def load(**change: Any) -> ClipSpec:
        clips = {**card["input"], **change}
        written = {name: value for name, value in clips.items() if value != "left out"}
        (folder / "model.yaml").write_text(yaml.safe_dump({**card, "input": written}))
        return load_artifact(folder, CPU).card.input

    assert load() == load(frames_per_second="left out") == load_checkpoint(path).input
    in_time = load(frame_stride=None, frames_per_second=12.5)
    assert (in_time.frame_stride, in_time.frames_per_second) == (None, 12.5)
    with pytest.raises(
        UserError, match=r"model card \(.*frame_stride \(2\) must be null beside frames_per_sec"
    ):
        load(frames_per_second=12.5)
    with pytest.raises(UserError, match=r"model card \(.*frame_stride \(null\) must be given"):
        load(frame_stride=None)


def test_program_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "bad.pt2").write_bytes(b"not a program")
    with pytest.raises(
        UserError, match=r"bad.pt2 must be a program made by `videonorm export`, and is no whole"
    ):
        load_artifact(tmp_path / "bad.pt2", CPU)
    with pytest.raises(UserError, match=r"bad.pt2 must be a program that torch.export can load"):
        load_artifact(tmp_path / "bad.pt2", CPU, trust=True)
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(2),)), tmp_path / "relu.pt2")
    with pytest.raises(
        UserError, match=r"and has a pickle in it .*as older versions wrote.*--trust reads it"
    ):
        load_artifact(tmp_path / "relu.pt2", CPU)
    with pytest.raises(
        UserError, match=r"relu.pt2 must be a program made by `videonorm export`, with model.js"
    ):
        load_artifact(tmp_path / "relu.pt2", CPU, trust=True)


def test_a_network_without_class_names(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = checkpoint("gn")
    content = torch.load(path, weights_only=True)
    content["videonorm"]["class_names"] = None
    torch.save(content, path)
    export_checkpoint(path, tmp_path / "exported")
    assert load_artifact(tmp_path / "exported", CPU).card.class_names is None
    card = yaml.safe_load((tmp_path / "exported" / "model.yaml").read_text())
    del card["class_names"]
    (tmp_path / "exported" / "model.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(UserError, match="must be a model card, with a `class_names` entry"):
        load_artifact(tmp_path / "exported", CPU)

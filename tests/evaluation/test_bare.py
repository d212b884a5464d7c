"""A program runs with torch alone, and an ONNX file with onnxruntime and numpy alone.

Python is started without any site-packages (-I -S), and with a folder that holds links to what is installed
of one package and of what that requires, and to nothing else: as in a fresh environment, without its making.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from videonorm.evaluation.checkpoint import load_checkpoint
from videonorm.evaluation.export import Format, export_checkpoint

OURS = ("videonorm", "pytorchvideo", "lightning", "torchvision", "jsonargparse", "safetensors", "av")

# Each makes the logits of all videos, uint8 (B, T, H, W, 3), with what the file itself says of pixels.
WITH_TORCH = """
import json, torch
card = {"model.json": ""}
network = torch.export.load(path, extra_files=card).module()
card = json.loads(card["model.json"])["input"]
mean, std = (torch.tensor(card[name]).view(3, 1, 1, 1) for name in ("mean", "std"))
for index, video in enumerate(torch.load(given)):
    clips = (video.movedim(-1, 1) / 255 - mean) / std
    torch.save(network(clips), f"{out}/{index}.pt")
"""
WITH_ONNXRUNTIME = """
import json, numpy, onnxruntime
session = onnxruntime.InferenceSession(path)
card = json.loads(session.get_modelmeta().custom_metadata_map["videonorm"])["input"]
mean, std = (numpy.float32(card[name]).reshape(3, 1, 1, 1) for name in ("mean", "std"))
for index, video in enumerate(numpy.load(given).values()):
    clips = (numpy.moveaxis(video, -1, 1) / numpy.float32(255) - mean) / std
    (logits,) = session.run(None, {"clips": clips})
    numpy.save(f"{out}/{index}.npy", logits)
"""


def link(name: str, site: Path, done: set[str]) -> None:
    """Link the files of a distribution, and of all that it requires here, into `site`."""
    if name in done:
        return
    done.add(name)
    found = importlib.metadata.distribution(name)
    for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(found.locate_file(top))))
    for text in found.requires or ():
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            link(re.sub(r"[-_.]+", "-", needed.name).lower(), site, done)


def run_bare(script: str, packages: Sequence[str], folder: Path, **values: Path) -> None:
    site = folder / "site"
    site.mkdir()
    done: set[str] = set()
    for package in packages:
        link(package, site, done)
    lines = [f"{name} = {str(value)!r}" for name, value in values.items()]
    script = f"""
import sys
sys.path.append({str(site)!r})
from importlib.util import find_spec
assert not [name for name in {OURS} if find_spec(name)]
{chr(10).join(lines)}
{script}
assert not [name for name in sys.modules if name.startswith({OURS})]
"""
    subprocess.run([sys.executable, "-I", "-S", "-W", "ignore", "-c", script], check=True, cwd=folder)


def agree(ckpt: Path, artifact: Path, kind: str, folder: Path) -> None:
    """Run a file of `artifact` bare, at B and T that are not those of the trace, beside its checkpoint."""
    rng = np.random.default_rng(0)
    videos = [rng.integers(0, 256, (b, t, 32, 32, 3), np.uint8) for b, t in ((1, 1), (3, 5), (2, 16))]
    folder.mkdir()
    if kind == "pt2":
        torch.save([torch.from_numpy(video) for video in videos], folder / "given")
        run_bare(
            WITH_TORCH, ["torch"], folder, path=artifact / "model.pt2", given=folder / "given", out=folder
        )
    else:
        np.savez(folder / "given.npz", *videos)
        given = folder / "given.npz"
        packages = ["onnxruntime", "numpy"]
        run_bare(WITH_ONNXRUNTIME, packages, folder, path=artifact / "model.onnx", given=given, out=folder)
    read = load_checkpoint(ckpt)
    mean, std = (torch.tensor(of).view(3, 1, 1, 1) for of in (read.input.mean, read.input.std))
    for index, video in enumerate(videos):
        file = folder / f"{index}.{'pt' if kind == 'pt2' else 'npy'}"
        logits = torch.load(file) if kind == "pt2" else torch.from_numpy(np.load(file))
        with torch.inference_mode():
            wanted = read.network((torch.from_numpy(video).movedim(-1, 1) / 255 - mean) / std)
        torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_a_file_runs_where_videonorm_is_not_installed(
    exported: SimpleNamespace, tmp_path: Path, kind: str
) -> None:
    if not (exported.folder / f"model.{kind}").exists():
        pytest.skip("needs the extra [onnx]")
    agree(exported.ckpt, exported.folder, kind, tmp_path / kind)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bn", "gn", "frozen", "bcn_wn"])
def test_every_norm_runs_so(checkpoint: Callable[..., Path], tmp_path: Path, name: str) -> None:
    pytest.importorskip("onnxscript", reason="of the extra [onnx]")
    formats: list[Format] = ["pt2", "onnx"]
    export_checkpoint(ckpt := checkpoint(name), tmp_path / "artifact", formats)
    for kind in formats:
        agree(ckpt, tmp_path / "artifact", kind, tmp_path / kind)


def test_what_is_fed_travels_in_every_file(exported: SimpleNamespace) -> None:
    """Beside the program, where others look: the same words in each."""
    import zipfile

    from safetensors import safe_open

    with zipfile.ZipFile(exported.folder / "model.pt2") as archive:
        cards: list[dict[str, Any]] = [json.loads(archive.read("archive/extra/model.json"))]
    with safe_open(exported.folder / "weights.safetensors", framework="pt") as file:
        cards.append(json.loads(file.metadata()["videonorm"]))
    if (exported.folder / "model.onnx").exists():
        import onnx

        model = onnx.load(exported.folder / "model.onnx", load_external_data=False)
        cards += [json.loads(of.value) for of in model.metadata_props if of.key == "videonorm"]
    for card in cards:
        assert card == cards[0]
        assert card["class_names"] == ["left", "right", "still"] and card["num_classes"] == 3
        for name in ("mean", "std", "crop_size", "short_side", "num_frames", "frame_stride", "clip_starts"):
            assert name in card["input"]

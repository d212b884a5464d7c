from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import fsspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from videonorm.errors import UserError
from videonorm.evaluation import kept_parts
from videonorm.evaluation.checkpoint import load_checkpoint
from videonorm.evaluation.feature_file import FeatureFile
from videonorm.evaluation.features import main
from videonorm.evaluation.penultimate import Penultimate, module_of

VIEWS = ["--num_clips", "2", "--batch_size", "2", "--device", "cpu"]


@pytest.fixture
def artifact(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint("gn_ws")


def by_hand(ckpt: Path, video: Path) -> Tensor:
    """(2, 64): of two clips of four frames, every second one, at frames 0 and 5 of 12; centre crops of 32."""
    with av.open(str(video)) as container:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    left = (pictures.shape[2] - 32) // 2
    views = [pictures[start : start + 7 : 2, 2:34, left : left + 32] for start in (0, 5)]
    clips = (torch.tensor(np.stack(views)) / 255 - 0.45) / 0.225
    network: Any = load_checkpoint(ckpt).network
    network.head = nn.Identity()
    with torch.inference_mode():
        features: Tensor = network(clips.movedim(-1, 1))
    return features


def test_features_of_a_manifest(artifact: Path, manifest: Path, tmp_path: Path) -> None:
    """They are the network's own; stopped in the middle, the same command ends with the same file."""
    out, whole = tmp_path / "features.npz", tmp_path / "whole.npz"
    options = ["--data", str(manifest), "--artifact", str(artifact), *VIEWS]
    with pytest.raises(SystemExit, match="^1$"):
        main([*options, "--out", str(whole)])
    with np.load(whole, allow_pickle=False) as file:
        arrays = dict(file)
    videos = [tmp_path / f"videos/{index}.mp4" for index in range(5)]
    assert arrays["path"].tolist() == list(map(str, videos))
    assert arrays["label"].tolist() == [0, 1, 2, 0, 1]
    expected = torch.stack([by_hand(artifact, video) for video in videos]).numpy()
    np.testing.assert_allclose(arrays["clip_features"], expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(arrays["video_features"], expected.mean(axis=1), atol=1e-5, rtol=0)
    times = np.array([[0, 6 / 24], [5 / 24, 11 / 24]])
    np.testing.assert_allclose(arrays["clip_seconds"], np.broadcast_to(times, (5, 2, 2)))
    assert np.isnan(arrays["stretch_seconds"]).all() and arrays["stretch_seconds"].shape == (5, 2)
    assert arrays["bad_path"].tolist() == [str(tmp_path / "videos/broken.mp4")] and arrays["bad_reason"][0]

    class Killed(Exception):
        pass

    kept = []

    def keep_one(self: FeatureFile, part: int, of_part: Any) -> None:
        if kept:
            raise Killed
        kept.append(part)
        keep(self, part, of_part)

    keep = FeatureFile.keep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureFile, "keep", keep_one)
        with pytest.raises(Killed):
            main([*options, "--out", str(out)])
    assert not out.exists()
    with pytest.raises(UserError, match=r"views must be as when this extraction began, .*npz\.parts keeps"):
        main([*options, "--num_clips", "3", "--out", str(out)])
    with pytest.raises(UserError, match=r"decoder must be as .* began, and was auto, not pyav; "):
        main([*options, "--decoder", "pyav", "--out", str(out)])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit, match="^1$"):
        patch.setattr(FeatureFile, "keep", lambda *given: (kept.append(given[1]), keep(*given)))
        main([*options, "--num_workers", "1", "--out", str(out)])
    assert kept == [0, 1, 2]
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def test_features_of_videos_by_name(
    artifact: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, video = tmp_path / "f.npz", manifest.with_name("videos") / "3.mp4"
    main([str(video), "--artifact", str(artifact), "--out", str(out), "--num_clips", "1", "--num_crops", "2"])
    with np.load(out) as arrays:
        assert arrays["clip_features"].shape == (1, 1, 64) and arrays["label"].tolist() == [-1]
    assert capsys.readouterr().out == f"{out}: features of 1 video, 1 clip each\n"
    before = out.read_bytes()
    broken = str(manifest.with_name("videos") / "broken.mp4")
    with pytest.raises(SystemExit, match="^2$"):
        main([broken, "--artifact", str(artifact), "--out", str(out)])
    assert f"videonorm: {broken} " in capsys.readouterr().err
    assert out.read_bytes() == before
    url = "memory://clips/0.mp4?token=abc"
    with fsspec.open(url, "wb") as file:
        file.write(video.read_bytes())
    with pytest.raises(SystemExit, match="^2$"):
        main(
            [
                url,
                "--artifact",
                str(artifact),
                "--out",
                str(out),
                "--short_side",
                "20",
            ]
        )
    assert "memory://clips/0.mp4?token=*** is smaller" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--out", "f.npz"], "VIDEO or --data must be given, one of them"),
        (["a.mp4", "--data", "b.csv", "--out", "f.npz"], "VIDEO or --data must be given, one of them"),
        (["a.mp4", "--out", "f.csv"], r"out \(f.csv\) must be a .npz file"),
        (["a.mp4", "--out", "f.npz", "--split", "val"], "root and split must be left out without data"),
        (["a.mp4", "--out", "/dev/null/f.npz"], r"out \(/dev/null/f.npz\) must be writable"),
    ],
)
def test_mistakes(given: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        main([*given, "--artifact", "none"])


def test_one_process_writes_a_file(tmp_path: Path) -> None:
    at_once = r"out must be of one extraction at a time: .*f\.npz\.parts is in use by process"
    with closing(FeatureFile(tmp_path / "f.npz", {}, 3, 2)), pytest.raises(UserError, match=at_once):
        FeatureFile(tmp_path / "f.npz", {}, 3, 2)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    with closing(FeatureFile(tmp_path / "f.npz", {}, 3, 4)) as file:
        (tmp_path / "f.npz.parts" / "part-00000.npz").write_bytes(b"PK")
        with pytest.raises(UserError, match=r"part-00000.npz must be as videonorm wrote it"):
            file.join()


def test_many_videos_make_few_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_parts, "MOST_PARTS", 3)
    with closing(FeatureFile(tmp_path / "f.npz", {}, 27, 4)) as file:
        assert [file.rows(part) for part in file.todo] == [range(12), range(12, 24), range(24, 27)]


class PlaceByPlace(nn.Module):
    """Ends as PyTorchVideo's heads: a linear layer at each place of (B, T, H, W, C), then their mean."""

    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        self.gate = nn.Linear(3, 3)
        self.proj = nn.Linear(3, outputs)

    def forward(self, clips: Tensor) -> Tensor:
        places = clips.movedim(1, -1)
        places = places * self.gate(places).sigmoid()
        logits: Tensor = self.proj(places).mean((1, 2, 3))
        return logits


def test_features_are_averaged_where_the_logits_are() -> None:
    network, clips = PlaceByPlace(), torch.randn(2, 3, 2, 4, 5)
    features = Penultimate(network, 4, "it")(clips)
    assert features.shape == (2, 3)
    torch.testing.assert_close(network.proj(features), network(clips))


def test_what_has_no_features() -> None:
    clips = torch.randn(1, 3, 1, 2, 2)
    ends_otherwise = r"artifact \(it\) must end in a linear layer with an output for each of its 4 classes"
    for network in (PlaceByPlace(5), nn.Flatten()):
        with pytest.raises(UserError, match=ends_otherwise):
            Penultimate(network, 4, "it")(clips)
    for program in (lambda of: of, torch.fx.symbolic_trace(nn.Flatten())):
        with pytest.raises(UserError, match=r"artifact \(it\) must be a folder .* a program has operators"):
            module_of(program, "it")

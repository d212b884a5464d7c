import importlib.util
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from videonorm import look
from videonorm.errors import UserError
from videonorm.evaluation.activation_maps import activation_maps
from videonorm.evaluation.checkpoint import load_checkpoint
from videonorm.evaluation.explain import main
from videonorm.evaluation.explanation import overlay

needs_torchcam = pytest.mark.skipif(
    importlib.util.find_spec("torchcam") is None, reason="needs the extra [explain]"
)


@pytest.fixture
def artifact(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint("gn_ws")


@needs_torchcam
def test_maps_are_the_last_stage_by_the_weights_of_the_class(artifact: Path) -> None:
    """Zhou et al., arXiv:1512.04150: behind a global mean, Grad-CAM is CAM."""
    network = load_checkpoint(artifact).network
    clips = torch.randn(2, 3, 8, 64, 48)
    stages: list[torch.Tensor] = []
    with torch.no_grad(), network.stages[-1].register_forward_hook(lambda *of: stages.append(of[2])):
        network(clips)
        by_hand = torch.einsum("bcthw,c->bthw", stages[0], network.head.weight[2]).relu()
    by_hand = F.interpolate(by_hand[:, None], size=(8, 64, 48), mode="trilinear")[:, 0]
    values, layer = activation_maps(network, clips, 2)
    assert layer == "final_norm"  # nothing, behind the last stage
    torch.testing.assert_close(values, by_hand / by_hand.amax(), atol=1e-5, rtol=1e-4)
    earlier = activation_maps(network, clips, 2, "stages.1")
    assert earlier.layer == "stages.1" and earlier.values.shape == values.shape and earlier.values.max() == 1
    for wrong in ("stages.9", "head"):
        with pytest.raises(UserError, match=rf"layer \({wrong}\) must "):
            activation_maps(network, clips, 2, wrong)


@needs_torchcam
def test_pictures(
    artifact: Path,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    video = str(manifest.with_name("videos") / "0.mp4")
    given = [video, "--artifact", str(artifact), "--device", "cpu"]
    figures = []
    # Its pixels take longer than the rest.
    monkeypatch.setattr(look, "as_png", lambda figure: (figures.append(figure), b"a picture")[1])
    main([*given, "--out", str(tmp_path / "a.png")])
    assert (tmp_path / "a.png").read_bytes() == b"a picture"
    ((figure,), times) = figures, ["0.08 s", "0.17 s", "0.25 s", "0.33 s"]  # from frame 2 of 24 a second
    rows = [figure.axes[at : at + 4] for at in range(0, 8, 4)]  # the frames, and with the map
    assert [axes.get_xlabel() for axes in rows[1]] == times and len(figure.axes) == 8
    assert all(axes.images[0].get_array().shape == (32, 32, 3) for row in rows for axes in row)
    told = capsys.readouterr().out
    assert told.startswith(f"{tmp_path / 'a.png'}: ") and "Grad-CAM of final_norm" in told
    main([*given, "--out", str(tmp_path / "a.gif"), "--class", "still"])
    with Image.open(tmp_path / "a.gif") as picture:
        assert (picture.format, picture.size) == ("GIF", (2 * 192, 192))
        assert picture.n_frames == 4 and picture.info["duration"] == 80  # ms, two frames at 24 a second
    assert f"{tmp_path / 'a.gif'}: still " in capsys.readouterr().out
    with pytest.raises(UserError, match=r"class \(stil\) must be a name .* below 3; did you mean still\?"):
        main([*given, "--out", str(tmp_path / "b.png"), "--class", "stil"])
    with pytest.raises(UserError, match=r"broken.mp4 "):
        main([video.replace("0.mp4", "broken.mp4"), *given[1:], "--out", str(tmp_path / "b.png")])
    assert not (tmp_path / "b.png").exists()
    url = "memory://clips/0.mp4?token=abc"
    with fsspec.open(url, "wb") as file:
        file.write(Path(video).read_bytes())
    with pytest.raises(UserError, match=r"^memory://clips/0.mp4\?token=\*\*\* is smaller"):
        main([url, *given[1:], "--out", str(tmp_path / "b.png"), "--short_side", "20"])
    main([url, *given[1:], "--out", str(tmp_path / "b.png")])
    assert figures[-1].get_suptitle().startswith("0.mp4?token=***: where ")


def test_only_what_speaks_for_the_class_is_coloured() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    of_frame = np.zeros((4, 4), np.float32)
    of_frame[0, 0] = 1
    drawn = overlay(frame, of_frame)
    grey = drawn[1:].reshape(-1, 3)
    assert (grey == grey[:, :1]).all() and len(set(drawn[0, 0].tolist())) > 1


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("a.jpg", r"out \(a.jpg\) must be a .png or .gif file"),
        ("/dev/null/a.png", r"out \(/dev/null/a.png\) must be writable"),
    ],
)
def test_mistakes(out: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        main(["a.mp4", "--artifact", "none", "--out", out])


def test_without_torchcam_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^torchcam must be installed .*: pip install 'videonorm\[explain\]'$"
    ):
        main(["a.mp4", "--artifact", "none", "--out", str(tmp_path / "a.png")])

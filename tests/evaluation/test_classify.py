import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import fsspec
import numpy as np
import pytest
import torch

from videonorm import look
from videonorm.data import BadVideoError
from videonorm.errors import UserError
from videonorm.evaluation import windows
from videonorm.evaluation.artifact import load_artifact
from videonorm.evaluation.classify import main
from videonorm.evaluation.evaluate import evaluate_artifact

CPU = torch.device("cpu")
Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def artifact(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint("gn_ws")


@pytest.fixture
def run(artifact: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call it with arguments for exit code, lines of standard output and lines of standard error."""

    def call(*given: object, device: str = "cpu") -> tuple[int, list[str], list[str]]:
        code = 0
        capsys.readouterr()
        try:
            main([*map(str, given), "--artifact", str(artifact), "--device", device])
        except SystemExit as stop:
            code = int(str(stop.code))
        output = capsys.readouterr()
        return code, output.out.splitlines(), output.err.splitlines()

    return call


def scores(record: dict[str, Any]) -> list[float]:
    return [answer["probability"] for answer in sorted(record["top"], key=lambda answer: answer["label"])]


def test_a_folder_has_the_scores_of_evaluate(run: Run, artifact: Path, manifest: Path) -> None:
    folder = manifest.with_name("videos")
    views: dict[str, Any] = {"num_clips": 2, "num_crops": 3}
    judged = evaluate_artifact(
        artifact, manifest, batch_size=4, device="cpu", max_bad_fraction=0.2, all_scores=True, **views
    )
    code, lines, complaints = run(folder, "--json", "--num_clips", 2, "--num_crops", 3, "--batch_size", 4)
    assert code == 1
    (complaint,) = complaints
    assert complaint.startswith(f"videonorm: {folder / 'broken.mp4'} ")
    found = {record["path"]: record for record in map(json.loads, lines)}
    assert list(found) == [video["path"] for video in judged["videos"]]
    for video in judged["videos"]:
        record = found[video["path"]]
        assert scores(record) == pytest.approx(video["scores"], abs=1e-6)
        assert [answer["label"] for answer in record["top"]] == list(video["top5"])
        assert {a["label"]: a["name"] for a in record["top"]} == {0: "left", 1: "right", 2: "still"}


def test_a_video_is_a_line_of_words(run: Run, manifest: Path) -> None:
    video = manifest.with_name("videos") / "0.mp4"
    with fsspec.open("memory://clips/0.mp4", "wb") as file:  # a URL, with the same in it
        file.write(video.read_bytes())
    options = ["--num_clips", 1, "--num_crops", 1]
    code, lines, complaints = run(video, "memory://clips/0.mp4", "--top", 2, *options)
    assert (code, complaints) == (0, [])
    path, _, answers = lines[0].partition(": ")
    assert path == str(video)
    assert lines[1] == f"memory://clips/0.mp4: {answers}"
    names = [answer.rsplit(" ", 1)[0] for answer in answers.split(", ")]
    assert len(names) == 2 and set(names) < {"left", "right", "still"}
    assert answers.endswith("\u00a0%")


def test_windows_are_the_views_from_beginning_to_end(run: Run, manifest: Path, tmp_path: Path) -> None:
    """Of 12 frames a clip of 4, every second one, takes 7: the windows are the two clips of linspace."""
    video, picture = manifest.with_name("videos") / "1.mp4", tmp_path / "pictures" / "1.png"
    _, views, _ = run(video, "--json", "--num_clips", 2)
    code, lines, complaints = run(video, "--json", "--windows", "--timeline", picture, "--batch_size", 1)
    assert (code, complaints) == (0, [])
    (record,) = map(json.loads, lines)
    assert scores(record) == pytest.approx(scores(json.loads(views[0])), abs=1e-6)
    times = [(window["start_seconds"], window["end_seconds"]) for window in record["windows"]]
    assert times == [pytest.approx((0, 6 / 24)), pytest.approx((5 / 24, 11 / 24))]
    assert np.mean([scores(window) for window in record["windows"]], axis=0) == pytest.approx(scores(record))
    assert picture.read_bytes().startswith(b"\x89PNG")
    # One frame further each: the first and the last are the same.
    _, lines, _ = run(video, "--windows", "--step", 1 / 24, "--batch_size", 4)
    assert len(lines) == 1 + 6
    assert lines[1].startswith(f"{video} 0.00 to 0.25 s: ") and lines[6].startswith(
        f"{video} 0.21 to 0.46 s: "
    )


def test_what_cannot_be_decoded_of_a_video_is_a_gap(
    run: Run, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = manifest.with_name("videos") / "0.mp4"
    read = windows.read_clips

    def read_some(reader: Any, indices: Any, short_side: int | None) -> Any:
        if indices.min() == 3:
            raise BadVideoError(reader.path, "is damaged at frame 3")
        return read(reader, indices, short_side)

    monkeypatch.setattr(windows, "read_clips", read_some)
    monkeypatch.setattr(look, "as_png", lambda figure: b"a picture")  # which takes longer than the rest
    options = ["--step", 1 / 24, "--batch_size", 1, "--json", "--windows"]
    code, lines, complaints = run(video, "--timeline", tmp_path / "timelines", *options)
    assert (code, complaints) == (1, [f"videonorm: {video} is damaged at frame 3"])
    (record,) = map(json.loads, lines)
    found = [window["top"] is not None for window in record["windows"]]
    assert found == [True, True, True, False, True, True]
    others = [scores(window) for window in record["windows"] if window["top"]]
    assert np.mean(others, axis=0) == pytest.approx(scores(record))
    assert (tmp_path / "timelines" / "0.mp4.png").exists()


def test_unusable_videos_are_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "zero.mp4").touch()
    for name, width in (("small.mp4", 24), ("sound.mp4", 0)):
        with av.open(str(tmp_path / name), "w") as container:
            if width:
                stream = container.add_stream("libx264", rate=24, width=width, height=24, pix_fmt="yuv420p")
                frame: Any = av.VideoFrame(width, 24, "yuv420p")
            else:
                stream = container.add_stream("aac", rate=8000, layout="mono")
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                frame.sample_rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    reasons = {
        "gone.mp4": "cannot be found",
        "small.mp4": "is smaller (24 x 24) than the crop; short_side 32 would scale it",
        "sound.mp4": "has no video stream",
        "zero.mp4": "is empty (0 bytes)",
    }
    for how in ([], ["--windows"]):
        code, lines, complaints = run(tmp_path / "gone.mp4", tmp_path, *how)
        assert (code, lines) == (2, [])
        for complaint, (name, reason) in zip(sorted(complaints), reasons.items(), strict=True):
            assert complaint.startswith(f"videonorm: {tmp_path / name} {reason}")
    assert run(tmp_path / "small.mp4", "--short_side", 32, "--num_clips", 1)[0] == 0


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            ["a.mp4", "--step", "1"],
            r"step \(1\) must be left out where neither windows nor timeline is given",
        ),
        (["a.mp4", "b.mp4", "--timeline", "t.png"], r"timeline \(t.png\) must be a folder, as there are 2"),
        (["a.mp4", "--timeline", "/dev/null/t.png"], r"timeline \(/dev/null/t.png\) must be writable"),
        (["a.mp4", "--top", "0"], r"\(0\) must be a whole number, 1 or more"),
        (["a.mp4"], r"artifact \(none\) must be a folder"),
    ],
)
def test_mistakes(given: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        main([*given, "--artifact", "none"])


def test_a_video_of_a_frame_has_a_timeline(artifact: Path, tmp_path: Path) -> None:
    from videonorm.evaluation.timeline import timeline

    with av.open(str(tmp_path / "one.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24, width=48, height=36, pix_fmt="yuv420p")
        container.mux(stream.encode(av.VideoFrame(48, 36, "yuv420p")))
        container.mux(stream.encode())
    loaded = load_artifact(artifact, CPU)
    found = windows.score_windows(
        str(tmp_path / "one.mp4"), loaded, loaded.card.input, CPU, step_seconds=1, num_crops=1, batch_size=8
    )
    assert found.seconds == [[0, 0]]
    axes = timeline("one", found, ["left", "right", "still"]).axes[0]
    assert sorted(label.get_text() for label in axes.get_yticklabels()) == ["left", "right", "still"]

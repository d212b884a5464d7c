"""An evaluation in parts: decoded once, the same whoever scores it and however often it was stopped."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from videonorm.data import dataset
from videonorm.data.clip_spec import ClipSpec
from videonorm.data.decoding import pyav
from videonorm.errors import UserError
from videonorm.evaluation import artifact, evaluate, judgement, outputs, parts, processes, views
from videonorm.evaluation.evaluation import Evaluation, Options
from videonorm.evaluation.processes import Processes
from videonorm.evaluation.scores import Network
from videonorm.files import hold

Checkpoint = Callable[..., Path]
TIMES = ("duration_seconds", "date")


class Small(nn.Module):
    """Logits of three classes that depend on every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 3, 3, stride=2)
        torch.manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.conv(clips).square().mean(dim=(2, 3, 4))
        return logits


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact of a network that takes no time; its file only tells it from another."""

    def load(path: Path, *_: object) -> artifact.Artifact:
        clips = ClipSpec(4, 2, 32, None, [0.45] * 3, [0.225] * 3, "linspace", "loop")
        return artifact.Artifact(Small().eval(), artifact.Card({}, clips, 3, None))

    monkeypatch.setattr(artifact, "load_artifact", load)
    monkeypatch.setattr(judgement, "as_png", lambda figure: b"a picture")  # which takes longer than the rest
    (tmp_path / "small.pt2").write_bytes(b"weights")
    return tmp_path / "small.pt2"


def command(small: Path, manifest: Path, out: Path, *more: str) -> dict[str, Any]:
    options = ["--num_clips", "3", "--num_crops", "2", "--batch_size", "1", "--device", "cpu"]
    options += ["--max_bad_fraction", "0.2", "--out", str(out), *more]
    evaluate.main(["--artifact", str(small), "--data", str(manifest), *options])
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def same(one: Path, other: Path) -> None:
    """The same results but for their times, to the bit."""
    records = [json.loads(path.read_text()) for path in (one, other)]
    for record in records:
        assert all(record.pop(name) is not None for name in TIMES)
    assert records[0] == records[1]
    tables = [np.load(path.with_suffix(".scores.npz"), allow_pickle=False) for path in (one, other)]
    assert tables[0].files == tables[1].files
    for name in tables[0].files:
        np.testing.assert_array_equal(tables[0][name], tables[1][name])


def test_all_views_are_of_one_decode(
    small: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    packets: list[object] = []

    def open_video(path: str, *more: Any) -> Any:
        opened.append(Path(path).name)
        return opens(path, *more)

    def decode(stream: Any, packet: Any) -> Any:
        packets.append(packet)
        return decodes(stream, packet)

    opens, decodes = dataset.open_video, pyav.decode
    monkeypatch.setattr(dataset, "open_video", open_video)
    monkeypatch.setattr(pyav, "decode", decode)
    result = command(small, manifest, tmp_path / "result.json", "--num_clips", "10", "--decoder", "pyav")
    assert opened == [*(f"{index}.mp4" for index in range(5)), "broken.mp4"]
    flushes = packets.count(None)  # one a pass over a file
    assert flushes == 5 and len(packets) - flushes <= 5 * 12
    assert result["num_videos"] == 5
    written = {path.name for path in tmp_path.glob("result.*")}
    assert written == {f"result.{kind}" for kind in ("json", "scores.npz", "classes.csv", "confusion.png")}


def test_the_network_sees_a_batch_of_clips_at_a_time(small: Path, manifest: Path) -> None:
    seen = []

    class Counting(Small):
        def forward(self, clips: Tensor) -> Tensor:
            seen.append((len(clips), clips.is_contiguous()))
            return super().forward(clips)

    how = Options(num_clips=3, num_crops=2, batch_size=2, device="cpu", max_bad_fraction=0.2)
    evaluation = Evaluation(small, manifest, how, Processes())
    evaluation.network._network = Counting()
    evaluation.score(None, "videos")
    assert seen == 2 * 6 * [(2, True)] + 6 * [(1, True)]  # the sixth video is broken


def test_in_two_processes_as_in_one(
    small: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(small, manifest, tmp_path / "one.json")
    together = []
    monkeypatch.setattr(Processes, "wait_for_each_other", lambda self: together.append(self.rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen: dict[int, list[list[int]]] = {0: [], 1: []}
    add = views.VideoLoader.__iter__

    def batches(self: views.VideoLoader) -> Any:
        for batch in add(self):
            seen[int(os.environ["RANK"])].append(batch.index.tolist())
            yield batch

    monkeypatch.setattr(views.VideoLoader, "__iter__", batches)
    for rank in (1, 0):  # the other first: nobody waits here
        monkeypatch.setenv("RANK", str(rank))
        if rank:
            with pytest.raises(FileNotFoundError):
                command(small, manifest, tmp_path / "two.json")
        else:
            command(small, manifest, tmp_path / "two.json")
    assert seen == {0: [[0], [2], [4]], 1: [[1], [3], []]} and together == [1, 0]
    assert not list(tmp_path.glob("*.partial"))
    content = json.loads((tmp_path / "two.json").read_text())
    assert content.pop("processes") == 2
    (tmp_path / "two.json").write_text(json.dumps({**content, "processes": 1}))
    same(tmp_path / "one.json", tmp_path / "two.json")


class Killed(Exception):
    pass


def test_stopped_and_run_again(
    small: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = ("--precision", "bf16", "--compare", str(tmp_path / "other.pt2"))
    (tmp_path / "other.pt2").write_bytes(b"weights of another")
    command(small, manifest, tmp_path / "alone.json", *ways)

    calls: list[int] = []
    last = 10

    def dies(network: Network, clips: Tensor) -> Tensor:
        calls.append(len(clips))
        if len(calls) > last:
            raise Killed
        return scored(network, clips)

    scored = outputs.view_logits
    monkeypatch.setattr(outputs, "view_logits", dies)
    out = tmp_path / "result.json"
    for last in (10, 12, 100):  # of 3 a video: in the fourth, behind the seventh, in the second artifact
        calls.clear()
        with pytest.raises(Killed) if last < 100 else nullcontext():
            command(small, manifest, out, *ways)
        assert out.exists() == (last == 100)
    assert len(calls) == 30 - 9 - 12
    same(tmp_path / "alone.json", out)
    assert not list(tmp_path.glob("*.partial"))


def test_another_command_does_not_go_on(
    small: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "result.json"
    finish = parts.Parts.finish

    def one_part(self: parts.Parts, *what: Any) -> None:
        finish(self, *what)
        raise Killed

    monkeypatch.setattr(parts.Parts, "finish", one_part)
    with pytest.raises(Killed):
        command(small, manifest, out)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "result.partial").iterdir()}
    assert kept.keys() == {"lock", "asked.json", "part-00000.npz"}

    def refused(message: str, *more: str) -> None:
        with pytest.raises(UserError, match=rf"{message}; .*result.partial keeps what is done"):
            command(small, manifest, out, *more)
        left = {path.name: path.read_bytes() for path in (tmp_path / "result.partial").iterdir()}
        assert left == kept

    refused("num_clips must be as when this evaluation began, and was 3, not 4", "--num_clips", "4")
    refused("precision must be as .*, and was fp32, not bf16", "--precision", "bf16")
    (tmp_path / "small.pt2").write_bytes(b"other weights")
    refused("artifact must be as .*, and was another")
    (tmp_path / "small.pt2").write_bytes(b"weights")
    manifest.write_text(manifest.read_text().replace("1.mp4,1", "1.mp4,2"))
    refused("data must be as .*, and was another")

    at_once = "out must be of one evaluation at a time: .* in use by process"
    with hold(tmp_path / "result.partial" / "lock"), pytest.raises(UserError, match=at_once):
        command(small, manifest, out)


def test_a_damaged_part_is_named(small: Path, manifest: Path, tmp_path: Path) -> None:
    how = Options(num_clips=1, num_crops=1, batch_size=6, device="cpu", max_bad_fraction=0.2)
    folder = tmp_path / "partial"
    with closing(Evaluation(small, manifest, how, Processes())) as evaluation:
        evaluation.score(folder, "videos")
    (folder / "part-00000.npz").write_bytes(b"PK")
    again = Evaluation(small, manifest, how, Processes())
    with closing(again), pytest.raises(UserError, match="part-00000.npz must be as videonorm wrote it"):
        again.score(folder, "videos")
    for name in ("notes.json", "asked.json"):
        for content in ("{", "[1]"):
            (folder / name).write_text(content)
            again = Evaluation(small, manifest, how, Processes())
            with closing(again), pytest.raises(UserError, match=f"{name} must be as videonorm wrote it"):
                again.score(folder, "videos")


def test_parts_are_whole_batches_and_not_too_many() -> None:
    from videonorm.evaluation.scores import VideoScores

    for num_videos, batch_size, size in ((101, 8, 8), (20_000, 8, 40), (3, 8, 8)):
        whole = parts.Parts(VideoScores(num_videos, 2), batch_size)
        assert whole.size == size and whole.num_videos(whole.own) == num_videos
        shares = [
            parts.Parts(VideoScores(num_videos, 2), batch_size, rank=rank, count=3) for rank in range(3)
        ]
        rows = [row for share in shares for part in share.own for row in share.rows(part)]
        assert sorted(rows) == list(range(num_videos))


def test_which_process_this_is() -> None:
    assert Processes.of_environment({}) == Processes(0, 1, 0)
    assert Processes.of_environment({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Processes(5, 8, 1)
    with pytest.raises(UserError, match=r"RANK \(x\) must be a whole number"):
        Processes.of_environment({"RANK": "x"})
    with pytest.raises(UserError, match=r"RANK \(2\) must be below WORLD_SIZE \(2\)"):
        Processes.of_environment({"RANK": "2", "WORLD_SIZE": "2"})


def test_processes_meet_beside_the_result(
    small: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--artifact", str(small), "--data", str(manifest)]
    with pytest.raises(UserError, match="out must be given to 2 processes"):
        evaluate.main([*given, "--devices", "2"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"devices \(3\) must be left out .* \(WORLD_SIZE is 2\)"):
        evaluate.main([*given, "--devices", "3", "--out", "out.json"])


@pytest.fixture
def exported(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    from videonorm.evaluation.export import export_checkpoint

    export_checkpoint(checkpoint("gn_ws"), tmp_path / "artifact")
    return tmp_path / "artifact"


def arguments(exported: Path, manifest: Path, out: Path) -> list[str]:
    options = ["--batch_size", "1", "--device", "cpu", "--max_bad_fraction", "0.2", "--out", str(out)]
    return ["evaluate", "--artifact", str(exported), "--data", str(manifest), *options]


@pytest.mark.slow
def test_started_by_devices_and_by_torchrun(exported: Path, manifest: Path, tmp_path: Path) -> None:
    starts = {
        "one": ["-m", "videonorm"],
        "two": ["-m", "videonorm"],
        "torchrun": [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            "-m",
            "videonorm",
        ],
    }
    for name, start in starts.items():
        given = [*arguments(exported, manifest, tmp_path / f"{name}.json")]
        subprocess.run(
            [sys.executable, *start, *given, *["--devices", "2"][: 2 * (name == "two")]], check=True
        )
        content = json.loads((tmp_path / f"{name}.json").read_text())
        assert content["processes"] == (1 if name == "one" else 2)
        (tmp_path / f"{name}.json").write_text(json.dumps({**content, "processes": 1}))
        same(tmp_path / "one.json", tmp_path / f"{name}.json")
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
def test_a_mistake_in_processes_is_one_sentence(exported: Path, manifest: Path, tmp_path: Path) -> None:
    manifest.write_text("path,label\nvideos/0.mp4,7\n")
    given = [*arguments(exported, manifest, tmp_path / "two.json"), "--devices", "2"]
    ended = subprocess.run([sys.executable, "-m", "videonorm", *given], capture_output=True, text=True)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert ended.stderr.count("label (7) must be below 3") == 1


@pytest.mark.slow
def test_killed_and_run_again(exported: Path, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    given = [sys.executable, "-m", "videonorm", *arguments(exported, manifest, out)]
    process = subprocess.Popen(given)
    while not (kept := list((tmp_path / "result.partial").glob("part-*.npz"))):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and kept
    if out.exists():
        pytest.fail("it was done before it could be killed")
    subprocess.run(given, check=True)
    alone = tmp_path / "alone.json"
    subprocess.run([sys.executable, "-m", "videonorm", *arguments(exported, manifest, alone)], check=True)
    same(alone, out)


def test_a_process_that_fails_takes_the_others_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first mistake of a process becomes, without starting any."""
    spawn = importlib.import_module("torch.multiprocessing.spawn")  # a function has its name
    ended: list[str] = []

    class Process:
        def terminate(self) -> None:
            ended.append("terminated")

        def join(self) -> None:
            ended.append("joined")

    class Context:
        processes = [Process(), Process()]

        def join(self) -> bool:
            text = "\n\n-- Process 1 terminated with the following error:\nTraceback:\n  ...\n"
            raise spawn.ProcessRaisedException(f"{text}videonorm.errors.UserError: label (7) must be\n", 1, 9)

    monkeypatch.setattr(spawn, "start_processes", lambda *_, **__: Context())
    with pytest.raises(UserError, match=r"^label \(7\) must be$"):
        processes.run_in_processes(2, print, "options")
    assert ended == 2 * ["terminated", "joined"]


def test_classes_without_a_name_have_their_number(
    small: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network may have more outputs than its training's data had classes, and take videos for them."""
    nameless = artifact.load_artifact(small, torch.device("cpu"))
    named = replace(nameless, card=replace(nameless.card, class_names=["left"]))
    monkeypatch.setattr(artifact, "load_artifact", lambda *_: named)
    classes = command(small, manifest, tmp_path / "result.json")["classes"]
    assert [of["name"] for of in classes] == ["left", "1", "2"]
    header, *rows = (tmp_path / "result.classes.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows] == ["left", "1", "2"]

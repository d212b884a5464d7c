"""Evaluate and export end as soon as they are asked to, or fail, and leave no process and no half result."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from videonorm.evaluation import evaluate, export, outputs, program
from videonorm.evaluation.scores import Network
from videonorm.interruption import Stopped, stops

Checkpoint = Callable[..., Path]


def asked(number: signal.Signals | None) -> None:
    if number is None:
        raise RuntimeError("the third batch")
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    "number, num_workers",
    [
        (signal.SIGINT, 0),
        (signal.SIGTERM, 2),
        (None, 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(signal.SIGINT, 2), (signal.SIGTERM, 0)]),
        pytest.param(None, 0, marks=pytest.mark.slow),
    ],
)
def test_evaluate(
    checkpoint: Checkpoint,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals | None,
    num_workers: int,
    handlers: dict[signal.Signals, object],
) -> None:
    export.export_checkpoint(checkpoint("gn"), tmp_path / "artifact")
    batches = []

    def third_is_the_last(network: Network, clips: Tensor) -> Tensor:
        batches.append(time.monotonic())
        if len(batches) == 3:
            asked(number)
        return scored(network, clips)

    scored = outputs.view_logits
    monkeypatch.setattr(outputs, "view_logits", third_is_the_last)
    out = tmp_path / "result.json"
    options = ["--num_workers", str(num_workers), "--batch_size", "1", "--device", "cpu", "--out", str(out)]
    options += ["--num_clips", "1", "--num_crops", "1"]
    with pytest.raises((Stopped, RuntimeError)) as caught:
        evaluate.main(["--artifact", str(tmp_path / "artifact"), "--data", str(manifest), *options])
    assert time.monotonic() - batches[-1] < 5 and len(batches) == 3
    assert not multiprocessing.active_children() and not out.exists()
    assert {of: signal.getsignal(of) for of in handlers} == handlers
    error = capsys.readouterr().err
    if number is None:
        assert "stopped" not in error
    else:
        assert isinstance(caught.value, Stopped) and caught.value.code == 128 + number
        kept = tmp_path / "result.partial"
        assert error.endswith(
            f"\nvideonorm: stopped; what is done is in {kept}, and the same command goes on from there\n"
        )
        assert len(list(kept.glob("part-*.npz"))) == 2


def test_export(
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = checkpoint("gn")
    monkeypatch.setattr(program, "trace", lambda *_: asked(signal.SIGINT))
    with pytest.raises(Stopped) as stopped:
        export.main(["--ckpt", str(path), "--out", str(tmp_path / "artifact"), "--format", "pt2"])
    assert stopped.value.code == 130 and list(tmp_path.iterdir()) == [path]
    assert capsys.readouterr().err == "\nvideonorm: stopped; nothing is written\n"


def test_what_was_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stops("nothing is lost"):
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Stopped), stops("nothing is lost"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN

"""A command that is asked to end does so within seconds, says how to go on, and leaves no process behind."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from videonorm.training import LastCheckpoint, VideoClassifier, VideoDataModule
from videonorm.training.cli import main
from videonorm.training.interruption import Stopped

SECONDS = 30.0
CASES = [
    (signal.SIGTERM, 2),
    *(
        pytest.param(number, num_workers, marks=pytest.mark.slow)
        for number, num_workers in [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGINT, 2)]
    ),
]


def processes_of(group):
    """Processes of a group that live, zombies not counted (Linux)."""
    found = subprocess.run(["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True).stdout
    return [state for state in found.split() if not state.startswith("Z")]


class Command:
    """A command of videonorm in a session of its own."""

    def __init__(self, folder, *options):
        self.folder = folder
        self.log = folder / "log.txt"
        folder.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "videonorm", *map(str, options)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, happened):
        deadline = time.monotonic() + 2 * SECONDS
        while not happened():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def end(self, number=None):
        """Send a signal, and return the exit code; it must not take long, and nothing may be left."""
        if number is not None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(SECONDS)
        finally:
            left = processes_of(self.process.pid)
            if left:
                os.killpg(self.process.pid, signal.SIGKILL)
        assert not left, left
        return code


def step(folder):
    record = folder / "run.json"
    return json.loads(record.read_text())["step"] if record.exists() else 0


def fit(recipe, folder, *options):
    return Command(
        folder,
        *("fit", "-c", recipe, "--trainer.default_root_dir", folder, "--trainer.max_steps", 10**6),
        *("--trainer.val_check_interval", 10**6, "--trainer.check_val_every_n_epoch", "null", *options),
    )


@pytest.mark.parametrize("number, num_workers", CASES)
def test_fit_saves_and_says_how_to_go_on(recipe, tmp_path, number, num_workers):
    folder = tmp_path / "run"
    command = fit(
        recipe, folder, "--data.num_workers", num_workers, "--last_checkpoint.every_n_train_steps", 10**6
    )
    command.wait_for(lambda: step(folder) > 2)
    assert not (folder / "checkpoints" / "last.ckpt").exists()
    assert command.end(number) == 128 + number
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["error"]) == ("stopped", signal.Signals(number).name)
    log = command.log.read_text()
    assert f"stopped at step {record['step']}; --ckpt_path last goes on" in log
    assert "Traceback" not in log and (folder / "checkpoints" / "last.ckpt").exists()

    goes_on = ["--ckpt_path", "last", "--trainer.max_steps", str(record["step"] + 3)]
    main(["fit", "-c", str(recipe), "--trainer.default_root_dir", str(folder), *goes_on])
    assert step(folder) == record["step"] + 3


def test_ctrl_c_ends_with_its_own_code_after_the_gradients_that_are_accumulated(
    recipe, tmp_path, monkeypatch, capsys
):
    folder, handlers = tmp_path / "run", [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    batches = []

    def ask(*_):
        batches.append(0)
        if len(batches) == 3:  # a step is made of two
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_start", ask)
    options = ["--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", "100"]
    with pytest.raises(Stopped) as stopped:
        main(["fit", "-c", str(recipe), "--trainer.default_root_dir", str(folder), *options])
    assert stopped.value.code == 130 and step(folder) == 2 and len(batches) == 4
    said = capsys.readouterr().out
    assert "stopped at step 2; --ckpt_path last goes on" in said
    assert "an epoch is 5 batches: its last step has 1 of 2, and weighs as much less" in said
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_second_ctrl_c_breaks_off_what_is_being_saved(recipe, tmp_path, monkeypatch, capsys):
    """Of the checkpoints of steps 3 and 4 the first one stands, whole and alone."""
    save, due = torch.save, []

    class Slow:
        def write(self, content):
            signal.raise_signal(signal.SIGINT)

        flush = close = lambda self: None

    def ask(self, trainer, *_):
        if trainer.global_step == 3:
            signal.raise_signal(signal.SIGINT)

    def breaks_off(checkpoint, file):
        due.append(checkpoint["global_step"])
        save(checkpoint, Slow() if len(due) == 2 else file)

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_start", ask)
    monkeypatch.setattr(torch, "save", breaks_off)
    with pytest.raises(Stopped) as stopped:
        main(["fit", "-c", str(recipe), "--trainer.default_root_dir", str(tmp_path)])
    assert stopped.value.code == 130 and due == [3, 4]
    assert capsys.readouterr().out.endswith("stopped at once, without saving\n")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "stopped"


def test_ctrl_c_before_the_first_step(recipe, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(VideoDataModule, "setup", interrupted)
    with pytest.raises(Stopped) as stopped:
        main(["fit", "-c", str(recipe), "--trainer.default_root_dir", str(tmp_path / "run")])
    signal.signal(signal.SIGINT, handlers[0])  # Lightning ignores it from here on: the process is to end
    assert stopped.value.code == 130 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_first_validation(recipe, tmp_path, monkeypatch, number):
    """Before training, to try it out: there is nothing to save."""
    monkeypatch.setattr(VideoClassifier, "on_validation_batch_start", lambda *_: signal.raise_signal(number))
    options = ["--trainer.num_sanity_val_steps", "2"]
    with pytest.raises(Stopped) as stopped:
        main(["fit", "-c", str(recipe), "--trainer.default_root_dir", str(tmp_path), *options])
    assert stopped.value.code == 128 + number and not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("num_workers", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_an_exception_ends_fit(recipe, videos, tmp_path, num_workers):
    (tmp_path / "boom.py").write_text(
        "import torch\n"
        "class Boom(torch.nn.Module):\n"
        "    n = 0\n"
        "    def forward(self, x):\n"
        "        Boom.n += 1\n"
        "        if Boom.n > 9: raise RuntimeError('out of memory, say')\n"
        "        return x\n"
    )
    environment = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environment}"
    try:
        command = fit(
            recipe, tmp_path / "run", "--data.augment+=boom.Boom", "--data.num_workers", num_workers
        )
    finally:
        os.environ["PYTHONPATH"] = environment
    command.wait_for((tmp_path / "run" / "run.json").exists)
    assert command.end() == 1
    assert "out of memory, say" in command.log.read_text()


@pytest.fixture(scope="module")
def checkpoint(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged") / "run"
    main(["fit", "-c", str(recipe), "--trainer.default_root_dir", str(folder), "--trainer.max_steps", "2"])
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def endless(videos, tmp_path_factory):
    """A manifest that takes minutes to judge."""
    path = tmp_path_factory.mktemp("endless") / "val.csv"
    rows = [f"{videos.folder}/10.mp4,0,0,{1 + number * 1e-6:.6f}" for number in range(20_000)]
    bad = f"{videos.folder}/bad.mp4,0,,"  # what is met is written at once, and so tells that work has begun
    path.write_text("\n".join(["path,label,start_seconds,end_seconds", bad, *rows, ""]))
    return path


@pytest.mark.parametrize("number, num_workers", CASES)
def test_validate_ends(recipe, checkpoint, endless, tmp_path, number, num_workers):
    folder = tmp_path / "run"
    command = Command(
        folder,
        *("validate", "-c", recipe, "--trainer.default_root_dir", folder, "--ckpt_path", checkpoint),
        *("--data.source.init_args.val", endless, "--data.num_workers", num_workers),
    )
    command.wait_for((folder / "bad_videos.csv").exists)
    assert command.end(number) == 128 + number
    log = command.log.read_text()
    assert "stopped" in log and "Traceback" not in log
    assert not (folder / "validate.json").exists()


def test_a_run_that_was_stopped_in_its_last_validation_has_it_after_all(recipe, tmp_path, monkeypatch):
    """It was saved with all its steps, of which the last was not validated."""
    validation_step, calls = VideoClassifier.validation_step, []

    def asked(self, batch, batch_idx):
        calls.append(batch_idx)
        if len(calls) == 4:  # of three batches each
            signal.raise_signal(signal.SIGTERM)
        return validation_step(self, batch, batch_idx)

    fit = ["fit", "-c", str(recipe), "--trainer.default_root_dir", str(tmp_path)]
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(VideoClassifier, "validation_step", asked)
        main(fit)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8
    before = metrics(tmp_path)
    assert before["val/top1"] == ["4"]

    main([*fit, "--ckpt_path", "last"])
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["status"], record["step"], record["clips_seen"]) == ("done", 8, 16)
    assert metrics(tmp_path) == before | {"val/top1": ["4", "8"]}
    main([*fit, "--ckpt_path", "last", "--trainer.max_steps", "12"])
    after = metrics(tmp_path)
    assert after["val/top1"] == ["4", "9", "12"]
    assert after["train/loss"] == [*before["train/loss"], *map(str, range(8, 12))]


@pytest.mark.slow
def test_averaged_weights_change_no_places_in_a_validation_that_is_stopped(recipe, tmp_path, monkeypatch):
    """While they are judged they are in the network, and those that are trained in their place."""
    average = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.5}}
    options = [f"--trainer.callbacks+={json.dumps(average)}", "--trainer.max_steps", "7"]

    def fit(name, *more):
        main(["fit", "-c", str(recipe), "--trainer.default_root_dir", str(tmp_path / name), *options, *more])
        return torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]

    def ask(self, *_):
        if not self.trainer.sanity_checking:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(VideoClassifier, "on_validation_batch_start", ask)
        fit("stopped")
    torch.testing.assert_close(fit("stopped", "--ckpt_path", "last"), fit("straight"))


def metrics(folder):
    """The steps that have them."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row["step"] for row in rows if row[name]] for name in ("train/loss", "val/top1")}

"""A sweep on a Ray cluster, whose nodes may go away."""

import socket
import threading
from dataclasses import replace

import pytest
from rich.console import Console

from videonorm.errors import UserError
from videonorm.sweep import ray_pool, run
from videonorm.sweep.plan import read_plan

STEPS = """
saved = folder / "checkpoints" / "last.ckpt"
saved.parent.mkdir(exist_ok=True)
for step in range(int(saved.read_text() or 0) if "ckpt_path" in options else 0, 40):
    time.sleep(0.1)
    saved.with_suffix(".new").write_text(str(step + 1))
    os.replace(saved.with_suffix(".new"), saved)
    record("running", step=step + 1)
record()
"""


def test_a_cluster_that_is_not_there_is_one_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            UserError, match=rf"--ray \({address}\) must be .* cluster .*: Connection refused"
        ):
            ray_pool._check_answers(address)


def test_a_run_that_is_lost_goes_on_from_its_checkpoint_and_is_named_at_last(
    sweep_file, stand_in, tmp_path, monkeypatch, capsys
):
    """With a pool of this machine whose kills are a node's."""

    class Machines(run.LocalPool):
        def ended(self):
            return {name: ray_pool.Lost("node gone") if how else how for name, how in super().ended().items()}

    monkeypatch.setattr(run, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(run, "LocalPool", Machines)
    command = stand_in("""
saved = folder / "checkpoints" / "last.ckpt"
saved.parent.mkdir(exist_ok=True)
steps = len((folder / "calls.txt").read_text().splitlines())
if folder.name == "bn_4x2_b4_s0" and steps < 6:  # comes further each time
    saved.write_text(str(steps))
    os.utime(saved, (steps, steps))
    os.kill(os.getpid(), signal.SIGKILL)
if folder.name == "bn_8x2_b2_s0":
    os.kill(os.getpid(), signal.SIGKILL)
record()
""")
    plan = read_plan(sweep_file)
    rows = run.run_sweep(plan, tmp_path / "out", Console(width=300), jobs=2, command=command)
    assert [row.status for row in rows] == ["done", "failed", "done", "done"]
    assert rows[1].error == "lost 4 times without a new checkpoint, the last time: node gone"
    printed = capsys.readouterr().out
    assert printed.count("lost    bn_4x2_b4_s0  node gone; it goes on elsewhere") == 5
    assert printed.count("resumed bn_4x2_b4_s0") == 5


def test_a_run_that_is_lost_before_it_has_printed_anything_goes_on(
    sweep_file, stand_in, tmp_path, monkeypatch
):
    """A machine may go away between taking a run and starting it."""
    taken, gone = set(), []

    class Machines(run.LocalPool):
        def start(self, name, command, log, devices):
            if name in taken:
                super().start(name, command, log, devices)
            else:
                taken.add(name)
                gone.append(name)

        def ended(self):
            found = {name: ray_pool.Lost("node gone") for name in gone}
            gone.clear()
            return found | super().ended()

    monkeypatch.setattr(run, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(run, "LocalPool", Machines)
    plan, quiet = read_plan(sweep_file), Console(quiet=True)
    rows = run.run_sweep(plan, tmp_path / "out", quiet, jobs=2, command=stand_in("record()"))
    assert [row.status for row in rows] == ["done"] * 4 and len(taken) == 4


@pytest.mark.slow
def test_a_node_that_is_killed_loses_nothing(sweep_file, stand_in, tmp_path):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    sweep_file.write_text(sweep_file.read_text() + "seeds: [0, 1, 2]\n")
    plan, command = read_plan(sweep_file), stand_in(STEPS)
    alone = run.run_sweep(plan, tmp_path / "alone", Console(quiet=True), jobs=4, command=command)
    cluster = Cluster()
    try:
        nodes = [cluster.add_node(num_cpus=cpus, num_gpus=0) for cpus in (1, 2, 2)]
        threading.Timer(14.0, lambda: cluster.remove_node(nodes[2], allow_graceful=False)).start()
        out = tmp_path / "out"
        rows = run.run_sweep(plan, out, Console(quiet=True), ray=cluster.address, command=command)
    finally:
        cluster.shutdown()
    assert [replace(row, train_seconds=None) for row in rows] == [
        replace(row, train_seconds=None) for row in alone
    ]
    assert all(row.done for row in rows)

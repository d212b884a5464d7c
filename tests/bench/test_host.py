"""`videonorm bench host`, and the GPU that takes no time."""

from collections import Counter
from functools import partial

import pytest
import torch

from videonorm.bench import host, host_work
from videonorm.bench.command import main
from videonorm.bench.host_work import measure, norms
from videonorm.bench.names import PARTS
from videonorm.bench.records import read_rows
from videonorm.bench.tables import host_table, readme_host_table
from videonorm.errors import UserError
from videonorm.layers import GroupNorm3d
from videonorm.ops.idle_gpu import IdleGpu, idle_gpu


def test_command(tmp_path, capsys):
    path = tmp_path / "host.csv"
    main(["host", "--quick", "--repeats", "1", "--out", str(path)])
    rows = read_rows(path)
    assert list(rows[0]) == list(host.COLUMNS)
    assert [(row["part"], row["arm"]) for row in rows if row["direction"] == "all"] == [
        (part, arm) for part, arms in PARTS.items() for arm in arms
    ]
    bn = {(row["part"], row["direction"]): float(row["microseconds"]) for row in rows if row["arm"] == "bn"}
    for row in rows:
        ratio = float(row["microseconds"]) / bn[row["part"], row["direction"]]
        assert float(row["ratio_to_bn"]) == pytest.approx(ratio, rel=1e-4)
    shown = capsys.readouterr().out
    assert "norm + add + ReLU" in shown and str(path) in shown
    table = host_table(rows)
    assert table.header == ["", "bn", "gn", "gn_ws", "gn_ws_recompute"]
    assert [line[0] for line in table.rows][-2:] == ["filters of a stage", "step"]
    assert table.rows[1][2].startswith(f"{float(rows[11]['microseconds']):,.0f} (")
    assert f"`videonorm/bench/results/{path.name}`" in readme_host_table(tmp_path)


def test_what_is_done_stays_if_it_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(host_work, "filters", lambda arm: 1 / 0)
    path = tmp_path / "host.csv"
    with pytest.raises(ZeroDivisionError):
        main(["host", "--repeats", "1", "--part", "gn", "ws", "--out", str(path)])
    rows = read_rows(path.with_name("host.csv.partial"))
    assert not path.exists() and [row["arm"] for row in rows if row["direction"] == "all"] == ["bn", "gn"]


def test_an_arm_of_other_parts_is_a_mistake(tmp_path):
    message = r"--arm \(gn gn_ws_recompute\) must have an arm of --part \(ws\): bn or gn_ws"
    with pytest.raises(UserError, match=message):
        main(["host", "--part", "ws", "--arm", "gn", "gn_ws_recompute", "--out", str(tmp_path / "host.csv")])
    assert not list(tmp_path.iterdir())


def test_no_ratio_without_bn():
    rows = list(measure([partial(norms, "gn", "gn")], 1, lambda: None))
    assert [row["direction"] for row in rows] == ["forward", "backward", "all"]
    assert {row["ratio_to_bn"] for row in rows} == {None}


def test_our_operators_alone_go_to_the_idle_gpu(monkeypatch):
    launches = Counter()
    launch = IdleGpu.launch

    def count(self, unit, kernel, *rest):
        launches[kernel] += 1
        launch(self, unit, kernel, *rest)

    monkeypatch.setattr(IdleGpu, "launch", count)
    norm, x = GroupNorm3d(8, 2, activation="relu"), torch.randn(2, 8, 1, 2, 2, requires_grad=True)
    want = norm(x)
    assert not launches
    with idle_gpu():
        norm(x).sum().backward()
    assert {"moments", "apply_relu", "sums_relu", "grad_x_relu"} <= set(launches)
    launches.clear()
    assert torch.equal(norm(x), want) and not launches

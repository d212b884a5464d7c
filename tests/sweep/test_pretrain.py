"""A sweep whose runs start from trainings of another shape, one for each arm and seed."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from videonorm.errors import UserError
from videonorm.sweep import report, run
from videonorm.sweep.cells import cells_of
from videonorm.sweep.command import main
from videonorm.sweep.plan import read_plan
from videonorm.sweep.records import RunFolder
from videonorm.sweep.results import read_results, write_results
from videonorm.sweep.tables import transfer_figures
from videonorm.sweep.transfer import read_transfers

PRETRAIN = """
pretrain:
  num_frames: 16
  batch_size: 8
  budget: {steps: 5}
  arms: {gn_ws: bn}
  overrides: {data.source.init_args.num_train: 8}
overrides: {model.freeze: [norms]}
lr: {rule: constant, value: 0.5}
seeds: [0, 3]
"""


@pytest.fixture
def with_pretrain(sweep_file):
    sweep_file.write_text(sweep_file.read_text() + PRETRAIN)
    return sweep_file


def test_every_arm_and_seed_starts_from_its_own(with_pretrain, result):
    plan = read_plan(with_pretrain)
    assert [run.name for run in plan.pretrain.runs] == ["bn_16x2_b8_s0", "bn_16x2_b8_s3"]
    options = set(plan.pretrain.runs[0].arguments(Path()))
    assert "--data.source.init_args.num_train=8" in options and "--trainer.max_steps=5" in options
    assert not any("freeze" in option or "optimizer" in option for option in options)

    rows = [result("bn", 16, 8, 0.5, seed=run.seed, run=run.name) for run in plan.pretrain.runs]
    settled = plan.with_pretrained(rows, lambda name: Path("out", name, "checkpoints", "last.ckpt"))
    assert settled.pretrain is None and len(settled.runs) == 8
    for of in settled.runs:
        start = f"--model.weights=out/bn_16x2_b8_s{of.seed}/checkpoints/last.ckpt"
        assert start in of.arguments(Path()) and "--model.optimizer.init_args.lr=0.5" in of.arguments(Path())
    with pytest.raises(UserError, match=r"pretrain \(bn_16x2_b8_s3\) must be done before what starts from"):
        plan.with_pretrained([rows[0], replace(rows[1], status="failed")], Path)


def test_a_moved_folder_starts_from_the_same(with_pretrain, result, tmp_path):
    plan = read_plan(with_pretrain)
    rows = [result("bn", 16, 8, 0.5, run=run.name) for run in plan.pretrain.runs]
    here, there = (
        plan.with_pretrained(rows, lambda name, at=at: Path(at, name, "checkpoints", "last.ckpt")).runs
        for at in ("here", "there")
    )
    folder = tmp_path / here[0].name
    RunFolder(folder, here[0]).start()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    RunFolder(folder, there[0]).check_unchanged()
    with pytest.raises(UserError, match="holds a run with other settings"):
        RunFolder(folder, replace(there[0], weights=there[1].weights)).check_unchanged()


@pytest.mark.parametrize(
    "change, sentence",
    [
        (("bn}", "bm}"), r"pretrain.arms \(bm\) must be one of norms: bn, gn_ws"),
        (("{gn_ws: bn}", "{gn_ws: bn, bn: gn_ws}"), r"pretrain.arms \(gn_ws: bn\) must name an arm with a"),
        (("{steps: 5}", "{}"), r"pretrain.budget \(nothing\) must give exactly one of"),
        (("batch_size: 8", "batch_sise: 8"), r"pretrain key \(batch_sise\) must be one of .*batch_size\?"),
        (
            ("data.source.init_args.num_train", "data.num_clips_val"),
            r"pretrain.overrides must be options of videonorm fit",
        ),
        (
            ("{data.source.init_args.num_train: 8}", "{data.num_frames: 8}"),
            r"pretrain.overrides \(data.num_f",
        ),
        (("freeze: [norms]", "weights: f"), r"overrides \(model.weights\) must leave to the sweep"),
        (
            ("\nseeds", "\nsearch: {options: {}, budget: {steps: 1}, num_frames: 1, batch_size: 1}\nseeds"),
            r"pretrain must stand without search|search.options",
        ),
    ],
)
def test_mistakes(with_pretrain, change, sentence):
    text = with_pretrain.read_text()
    assert change[0] in text
    with_pretrain.write_text(text.replace(*change))
    with pytest.raises(UserError, match=sentence):
        read_plan(with_pretrain)


def test_two_stages_from_file_to_report(with_pretrain, stand_in, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    fit = stand_in(
        "(folder / 'checkpoints').mkdir(exist_ok=True)\n"
        "(folder / 'checkpoints' / 'last.ckpt').write_text('weights')\n"
        "start = options.get('model.weights')\n"
        "assert (start is None) == ('pretrain' in folder.parts) and (not start or Path(start).exists())\n"
        "record()\n"
    )
    monkeypatch.setattr(run, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(run, "run_sweep", partial(run.run_sweep, command=fit))
    monkeypatch.setattr(report, "as_png", lambda figure: b"")
    with_pretrain.write_text(with_pretrain.read_text().replace("[0, 3]", "[0]"))
    main(["-c", str(with_pretrain), "--dry_run"])
    stages = r"bn_16x2_b8_s0.*the last checkpoint of each is where these start.*bn_4x2_b4_s0"
    assert re.search(stages, capsys.readouterr().out, re.DOTALL)
    main(["-c", str(with_pretrain), "--output", "out"])
    assert len(read_results(Path("out/pretrain/results.csv"))) == 1
    assert len(read_results(Path("out/results.csv"))) == 4
    runs = json.loads(Path("out/sweep.json").read_text())["runs"]
    assert {run["starts_from"] for run in runs} == {"bn_16x2_b8_s0"}
    html = Path("out/report.html").read_text()
    assert html.count("<td>66.0 (") == 4 and html.count("<td>-12.0 (") == 2


def test_what_is_left_of_what_was_learnt(result, tmp_path):
    before = [result("bn", 16, 8, top1, seed=seed) for seed, top1 in enumerate((0.8, 0.9))]
    (tmp_path / "pretrain").mkdir()
    write_results(tmp_path / "pretrain" / "results.csv", before)

    def after(arm, *top1, **more):
        return [result(arm, 4, 2, of, seed=seed, **more) for seed, of in enumerate(top1)]

    rows = [*after("bn", 0.5, 0.62), *after("gn", 0.8, 0.9, num_classes=3), result("in", 4, 2, 0.5)]
    starts = [{"run": of.run, "starts_from": before[of.seed].run} for of in rows[:4]]
    about = {"runs": [*starts, {"run": rows[4].run}]}
    bn, gn = read_transfers(tmp_path, about, cells_of(rows))
    assert bn.change.value == pytest.approx(-0.29) and bn.change.low < -0.29 < bn.change.high
    assert gn.change is None and gn.before is not None
    headings, figures = transfer_figures([bn, gn])
    assert headings[:5] == ["arm", "learnt as", "T x stride", "B", "top-1 then"]
    assert figures[0][:4] == ["bn", "bn", "16 x 1", "8"] and figures[0][-1].startswith("-29.0 (")
    assert figures[1][0] == "gn" and figures[1][-1] == ""
    assert read_transfers(tmp_path / "none", {}, cells_of(rows)) == []

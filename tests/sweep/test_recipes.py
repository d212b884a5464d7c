import os
import time

import pytest

from videonorm import files
from videonorm.sweep.cells import cells_of
from videonorm.sweep.recipes import read_recipes, unfinished


def test_what_is_common_is_said_once(tmp_path, result):
    rows = [
        result("bn", 4, 2, 0.5),
        result("gn", 4, 2, 0.5),
        result("gn", 4, 2, 0.5, seed=1),
        result("ln", 4, 2, 0.5),
    ]
    recipe = {
        "model": {"width": 8, "norm": {"class_path": "BN", "init_args": {"momentum": 0.1}}},
        "data": {"augment": []},
    }
    overlays = {"bn": {}, "gn": {"model": {"norm": {"class_path": "GN", "init_args": {"num_groups": 8}}}}}
    for row in rows[:3]:  # ln's folder is gone
        options = {"data.num_frames": 4, "seed_everything": row.seed, "trainer.default_root_dir": "."}
        asked = {"configs": [recipe, overlays[row.norm]], "options": options}
        files.write_json(tmp_path / row.run / "asked.json", {"asked": asked, "status": "done"})
    cells = cells_of(rows)
    recipes = read_recipes(tmp_path, cells)
    assert recipes.common == {"data.augment": "[]", "data.num_frames": "4", "model.width": "8"}
    assert recipes.own == [
        (cells[0], {"model.norm.class_path": "BN", "model.norm.init_args.momentum": "0.1"}),
        (cells[1], {"model.norm.class_path": "GN", "model.norm.init_args.num_groups": "8"}),
    ]


def test_one_cell_has_its_settings_and_nothing_in_common(tmp_path, result):
    row = result("bn", 4, 2, 0.5)
    asked = {"configs": [{"model": {"width": 8}}], "options": {}}
    files.write_json(tmp_path / row.run / "asked.json", {"asked": asked})
    recipes = read_recipes(tmp_path, cells_of([row]))
    assert recipes.common == {} and [settings for _, settings in recipes.own] == [{"model.width": "8"}]


def test_runs_without_a_row_are_told_with_how_far_they_are(tmp_path, result):
    row = result("bn", 4, 2, 0.5)
    for name in (row.run, "gn_4x1_b2_s0", "gn_4x1_b2_s1"):
        files.write_json(tmp_path / name / "asked.json", {"status": "running"})
    files.write_json(tmp_path / "gn_4x1_b2_s0" / "run.json", {"step": 30, "total_steps": 40})
    ago = time.time() - 600
    for path in (tmp_path / "gn_4x1_b2_s0").iterdir():
        os.utime(path, (ago, ago))
    first, second = unfinished(tmp_path, [row])
    assert (first.run, first.fraction, second.run, second.fraction) == (
        "gn_4x1_b2_s0",
        0.75,
        "gn_4x1_b2_s1",
        0.0,
    )
    assert first.minutes_silent == pytest.approx(10, abs=0.5)

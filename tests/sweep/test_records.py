"""What a sweep reads from a run folder and writes into it."""

from videonorm import files
from videonorm.sweep.plan import read_plan
from videonorm.sweep.records import RunFolder, planned, read_result

DONE = {"status": "done", "val_top1": 0.5, "val_loss": 1.0, "val_videos": 4.0}


def test_progress_is_read_from_run_json(sweep_file, tmp_path):
    folder = RunFolder(tmp_path / "out", read_plan(sweep_file).runs[0])
    assert (folder.fraction, folder.top1, folder.status) == (0.0, None, "waiting")
    files.write_json(folder.path / "run.json", {"step": 5, "total_steps": 20, "val_top1": 0.5})
    folder.read()
    assert (folder.fraction, folder.top1) == (0.25, 0.5)
    files.write_json(folder.path / "run.json", {"step": 5, "total_steps": None})
    folder.read()
    assert folder.fraction == 0.5  # of the plan's 10 steps


def test_settings_that_json_has_no_words_for_are_compared_too(sweep_file, tmp_path):
    (tmp_path / "recipe.yaml").write_text("data: {frame_stride: 2, day: 2020-01-01}\nmodel: {limit: .inf}\n")
    run = read_plan(sweep_file).runs[0]
    RunFolder(tmp_path / "out", run).start()
    files.write_json(tmp_path / "out" / "run.json", {**DONE, "val_videos": 4})
    folder = RunFolder(tmp_path / "out", run)
    assert folder.status == "done"
    folder.check_unchanged()


def test_what_the_sweep_asked_is_in_the_row_whatever_was_recorded(sweep_file, tmp_path):
    folder = RunFolder(tmp_path / "out", read_plan(sweep_file).runs[3])
    recorded = {**DONE, "seed": 9, "num_frames": 3, "step": 7}
    files.write_json(folder.path / "run.json", {**recorded, "frames_per_step": 32, "bad_videos": 0})
    row = read_result(folder.path, planned(folder.run))
    assert (row.run, row.norm, row.shape, row.seed) == ("gn-ws_8x2_b2_s0", "gn_ws", (8, 2, 2), 0)
    assert (row.frames_per_step, row.val_videos, row.lr) == (32, 4, None)

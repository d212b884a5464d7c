"""Every command of the README is run, in its order, over recipes that are cut short and else the same."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from readme import (
    COMMANDS,
    INSTALL,
    OF_THE_MACHINE,
    README,
    ROOT,
    blocks,
    readme_results,
    readme_studies,
    run_here,
)

from videonorm.bench.tables import readme_host_table, readme_loading_tables, readme_tables
from videonorm.data import MotionClips
from videonorm.training.cli import main

SLOW = (  # have tests of their own
    *("videonorm frontier measure", "videonorm frontier statistics"),
    *("videonorm study run", "videonorm study report"),
    "videonorm sweep -c configs/sweep/quickstart.yaml --seeds",  # the quickstart, three times
)
SIZES = {"num_train": 16, "num_val": 4, "num_test": 4}


def cut_short(recipe: Path, **changes: dict[str, object]) -> None:
    """Change a recipe in place: section -> the keys that it gets anew."""
    content = yaml.safe_load(recipe.read_text())
    for section, keys in changes.items():
        content[section].update(keys)
    recipe.write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder with the recipes, little data for them, and a home of its own."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "configs", folder / "configs")
    source = {"class_path": "videonorm.data.MotionClips", "init_args": SIZES}
    short = {"max_steps": 2, "check_val_every_n_epoch": None, "val_check_interval": 2}
    for name in ("motion_r10", "motion_r18"):
        cut_short(folder / "configs" / f"{name}.yaml", data={"source": source}, trainer=short)

    clips = MotionClips(folder / "data", **SIZES)
    clips.prepare()
    shutil.move(clips.root, folder / "data" / "kinetics400")
    cut_short(
        folder / "configs" / "kinetics400_r3d18.yaml",
        data={"batch_size": 2, "crop_size": 32, "num_frames": 2, "short_side": None, "eval_short_side": None},
        trainer={"max_epochs": 1, "limit_train_batches": 1, "precision": "32-true"},
    )

    r50 = folder / "configs" / "kinetics400_r50.yaml"
    backbone = yaml.safe_load(r50.read_text())["model"]["backbone"]
    backbone["init_args"] |= {"depth": 10, "width": 8}
    cut_short(r50, model={"backbone": backbone}, data={"crop_size": 32})

    quickstart = folder / "configs" / "sweep" / "quickstart.yaml"
    content = yaml.safe_load(quickstart.read_text())
    content |= {"norms": {"gn_ws": content["norms"]["gn_ws"]}, "num_frames": [2], "budget": {"steps": 2}}
    quickstart.write_text(yaml.safe_dump(content))

    explosion = folder / "configs" / "study" / "explosion.yaml"
    content = yaml.safe_load(explosion.read_text())
    content["sweep"] |= {"recipe": "../motion_r10.yaml", "seeds": [0, 1]}
    for other in explosion.parent.glob("*.yaml"):  # which `all` would run
        other.unlink()
    explosion.write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(line, marks=pytest.mark.slow if line.startswith(SLOW) else ())
        for line in COMMANDS
        if "pytest" not in line and line not in OF_THE_MACHINE
    ],
)
def test_command(clone, command, monkeypatch):
    run_here(clone, command, monkeypatch)


def test_the_commands_leave_what_the_readme_says(clone):
    assert {path.name for path in (clone / "runs" / "quickstart").iterdir()} >= {"report.html", "results.csv"}
    folder = clone / "runs" / "motion_r18_gn_ws_16x1_b2"
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml",
        "run.json",
        "metrics.csv",
        "checkpoints",
    }
    exported = {path.name for path in (clone / "exported" / "motion").iterdir()}
    assert exported == {"weights.safetensors", "model.yaml", "provenance.json", "model.pt2"}
    assert (clone / "motion.json").exists()


def test_the_test_line_is_what_ci_runs():
    line = next(line for line in COMMANDS if "pytest" in line)
    assert line == INSTALL + '".[test]" && .venv/bin/pytest -n 2 --dist loadfile'
    ci = (ROOT / ".ci" / "run").read_text()
    assert (
        '"$environment/bin/pip" install' in ci
        and '-e ".[test]"' in ci
        and '"$environment/bin/pytest" -n 2 --dist loadfile' in ci
    )


def test_python_example(capsys):
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    assert "GroupNorm3d" in capsys.readouterr().out


def test_the_augmentation_shown_trains(clone, monkeypatch):
    (shown,) = (block for block in blocks("yaml") if block.startswith("data:"))
    (clone / "configs" / "shown_data.yaml").write_text(shown)
    monkeypatch.chdir(clone)
    monkeypatch.setenv("XDG_CACHE_HOME", str(clone / ".cache"))
    recipes = ["-c", "configs/motion_r18.yaml", "-c", "configs/shown_data.yaml"]
    main(["fit", *recipes, "--data.batch_size", "4", "--trainer.accelerator", "cpu"])
    assert list((clone / "runs").glob("motion_r18_shown_data_*_b4/run.json"))


def test_the_sweep_file_shown_is_a_valid_one(clone, monkeypatch):
    (shown,) = (block for block in blocks("yaml") if block.startswith("name:"))
    path = clone / "configs" / "sweep" / "shown.yaml"
    path.write_text(shown)
    run_here(clone, "videonorm sweep -c configs/sweep/shown.yaml --dry_run", monkeypatch)


@pytest.mark.parametrize(
    "name", ["quickstart", "contrast", "batch_curve", "grid_t_b", "grid_t_b/search", "grid_one_recipe"]
)
def test_the_figures_are_those_of_the_committed_results(name):
    block = re.search(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", README, re.DOTALL)
    assert block and block[1] == readme_results(name)


def test_the_verdicts_are_those_of_the_committed_studies():
    assert f"<!-- studies:begin -->\n{readme_studies()}<!-- studies:end -->" in README


def test_the_times_are_those_of_the_committed_benchmarks():
    assert f"<!-- bench:begin -->\n{readme_tables()}<!-- bench:end -->" in README
    assert f"<!-- host:begin -->\n{readme_host_table()}<!-- host:end -->" in README
    assert f"<!-- loader:begin -->\n{readme_loading_tables()}<!-- loader:end -->" in README

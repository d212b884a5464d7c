"""`videonorm frontier plan`, from options to table, picture and sentence."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from videonorm.errors import UserError
from videonorm.frontier import plan as planning
from videonorm.frontier import recipe as recipe_module
from videonorm.frontier.command import main
from videonorm.frontier.memory import trace_step
from videonorm.frontier.plan import GIB, Question, answer, sentence
from videonorm.frontier.recipe import Recipe, build, read_recipe

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPE = str(CONFIGS / "motion_r10.yaml")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return read_recipe([Path(RECIPE), CONFIGS / "norm" / "bn.yaml", CONFIGS / "conv" / "plain.yaml"])


def test_a_recipe_is_read_as_fit_reads_it(recipe):
    assert recipe.backbone["init_args"]["norm"]["class_path"] == "videonorm.layers.BatchNorm3d"
    assert recipe.optimizer["class_path"] == "torch.optim.AdamW"
    assert (recipe.precision, recipe.accumulate) == ("32-true", 1)
    assert (recipe.num_frames, recipe.crop_size, recipe.batch_size) == (16, 32, 2)


def test_a_mistake_in_a_recipe_is_fits_sentence(tmp_path):
    (tmp_path / "o.yaml").write_text("data: {num_frame: 3}\n")
    with pytest.raises(UserError, match=r"^data.num_frame is no key of .* did you mean data.num_frames"):
        read_recipe([Path(RECIPE), tmp_path / "o.yaml"])


def in_this_process(questions, gib_memory, gib_reserved):
    return (answer(question, gib_memory, gib_reserved) for question in questions)


def test_from_options_to_table_picture_and_sentence(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(planning, "plan", in_this_process)
    recipes = {"bn.yaml": recipe, "gn.yaml": with_group_norm(recipe)}
    monkeypatch.setattr(recipe_module, "read_recipe", lambda configs: recipes[configs[-1].name])
    out = tmp_path / "a" / "p.csv"
    options = ["-c", RECIPE, "--memory_gib", "0.3", "--reserve_gib", "0.1", "--norms", "bn", "gn"]
    main(["plan", *options, "--num_frames", "2", "4", "--out", str(out)])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["norm"], row["num_frames"]) for row in rows] == [
        *(("bn", "2"), ("bn", "4")),
        *(("gn", "2"), ("gn", "4")),
    ]
    for row in rows:
        assert int(row["max_batch_size"]) > 2 and row["precision"] == "32-true"
        assert float(row["gib_at_max"]) <= 0.2 < float(row["gib_at_max"]) + float(row["gib_peak_per_clip"])
    assert int(rows[0]["max_batch_size"]) > 1.5 * int(rows[1]["max_batch_size"])
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "0.3 GiB hold 4 x" in printed and printed.endswith(f"{out}, {out.with_suffix('.png')}\n")


def test_what_fits_nowhere(recipe, tmp_path, monkeypatch):
    """Of one crop, and of all: then nothing is drawn, and the table says how far it is."""
    monkeypatch.setattr(planning, "plan", in_this_process)
    monkeypatch.setattr(recipe_module, "read_recipe", lambda configs: recipe)
    out = tmp_path / "p.csv"
    options = ["plan", "-c", RECIPE, "--reserve_gib", "0.001", "--num_frames", "2", "--out", str(out)]
    main([*options, "--memory_gib", "0.02", "--crop_size", "32", "1024"])
    assert [row["max_batch_size"] == "0" for row in csv.DictReader(out.open())] == [False, True]
    out.with_suffix(".png").unlink()
    with pytest.raises(UserError, match=r"^--memory_gib \(0.02\) must hold a batch beside .* a clip"):
        main([*options, "--memory_gib", "0.02", "--crop_size", "1024"])
    assert out.exists() and not out.with_suffix(".png").exists()


def with_group_norm(recipe):
    norm = {"class_path": "videonorm.layers.GroupNorm3d", "init_args": {"num_groups": 4}}
    backbone = {**recipe.backbone, "init_args": {**recipe.backbone["init_args"], "norm": norm}}
    return replace(recipe, backbone=backbone)


def test_a_batch_norm_needs_two_clips(recipe):
    for of, one in ((recipe, 0), (with_group_norm(recipe), 1)):
        step = trace_step(*build(of), (16, 64, 64), of.precision)
        between = (step.peak(1) + step.peak(2)) / 2 / GIB
        found = answer(Question("norm", of, 16, 64), between, 0.0)
        assert found.max_batch_size == one and (found.gib_at_max > 0) == bool(one)
        assert answer(Question("norm", of, 16, 64), step.fixed / 2 / GIB, 0.0).max_batch_size == 0


def point(norm, num_frames, size):
    return planning.Point(norm, num_frames, 224, "bf16-mixed", size, *[0.0] * 4, 80.0, 2.0, None, None)


def test_the_sentence():
    points = [point("bn", 8, 200), point("bn", 64, 11), point("gn", 8, 200), point("gn", 64, 17)]
    assert sentence(points) == "80 GiB hold 64 x 17 clips with gn where bn holds 11."
    assert sentence(points[:2]) == "80 GiB hold 64 x 11 clips with bn."
    assert (
        sentence([point("bn", 64, 0), points[3]]) == "80 GiB hold 64 x 17 clips with gn where bn holds none."
    )
    assert sentence([point("bn", 64, 0)]) == "80 GiB hold no clip of 64 frames, whichever of these norms."
    assert GIB == 2**30


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--norms", "gn_wss"], r"--norms \(gn_wss\) must be .* of accumulated_bn, .*; did you mean gn_ws\?"),
        (["--norms", "bn", "bn"], r"--norms \(bn bn\) must not repeat a value"),
        (["--num_frames", "8", "8"], r"--num_frames \(8 8\) must not repeat a value"),
        (["--num_frames", "0"], r"num_frames.*\(0\) must be"),
        (["--reserve_gib", "9"], r"--memory_gib \(4\) must be above --reserve_gib \(9\)"),
        (["--memory_gib", "nan"], r"memory_gib.*\(nan\) must be a number above 0"),
        (["--out", "/dev/null"], r"--out \(/dev/null\) must be a file that can be written"),
    ],
)
def test_mistakes(options, sentence, recipe, monkeypatch):
    monkeypatch.setattr(recipe_module, "read_recipe", lambda configs: recipe)
    with pytest.raises(UserError, match=sentence):
        main(["plan", "-c", RECIPE, "--memory_gib", "4", *options])


def test_a_precision_that_is_not_planned(recipe):
    with pytest.raises(UserError, match=r"trainer.precision \(64-true\) must be one of 32-true, "):
        answer(Question("bn", replace(recipe, precision="64-true"), 2, 32), 4.0, 1.0)


def test_without_a_gpu_the_memory_has_to_be_given(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="--memory_gib must be given: there is no GPU here"):
        main(["plan", "-c", RECIPE])

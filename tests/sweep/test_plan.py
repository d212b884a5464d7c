import json
from pathlib import Path

import pytest

from videonorm.errors import UserError
from videonorm.sweep.plan import read_plan

KINETICS = Path(__file__).parents[2] / "configs" / "sweep" / "kinetics_t_b.yaml"


def rewrite(path: Path, *changes: tuple[str, str]) -> Path:
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def test_frames_per_step_gives_the_batch_size(sweep_file):
    plan = read_plan(sweep_file)
    assert [run.name for run in plan.runs] == [
        "bn_4x2_b4_s0",
        "bn_8x2_b2_s0",
        "gn-ws_4x2_b4_s0",
        "gn-ws_8x2_b2_s0",
    ]
    assert [run.arm for run in plan.runs] == ["bn", "bn", "gn_ws", "gn_ws"]
    assert plan.jobs == "auto"
    assert {run.frames_per_step for run in plan.runs} == {16}


def test_a_run_becomes_arguments_of_fit(sweep_file):
    rewrite(
        sweep_file,
        (
            "budget:",
            'overrides: {data.name: "007", trainer.log: 5, model.deep: true, data.size: [1, 2]}\nbudget:',
        ),
    )
    run = read_plan(sweep_file).runs[3]
    folder = sweep_file.parent
    assert run.arguments(Path("/runs/x")) == [
        "-c",
        str(folder / "recipe.yaml"),
        "-c",
        str(folder / "gn_ws.yaml"),
        "--data.name=007",
        "--trainer.log=5",
        "--model.deep=true",
        "--data.size=[1, 2]",
        "--data.num_frames=8",
        "--data.frame_stride=2",
        "--data.batch_size=2",
        "--trainer.max_steps=10",
        "--trainer.max_epochs=-1",
        "--seed_everything=0",
        "--trainer.default_root_dir=/runs/x",
        "--trainer.enable_progress_bar=false",
    ]


def test_batch_sizes_are_crossed_with_lengths_and_seeds(sweep_file):
    rewrite(sweep_file, ("frames_per_step: 16", "batch_size: [1, 2, 4]"))
    plan = read_plan(sweep_file, num_seeds=3)
    assert len(plan.runs) == 2 * 2 * 3 * 3
    assert len({run.name for run in plan.runs}) == len(plan.runs)
    assert {run.seed for run in plan.runs} == {0, 1, 2}


def test_shapes_are_taken_as_listed(sweep_file):
    cells = "cells: [{num_frames: 32, frame_stride: 4, batch_size: 8}, {num_frames: 64, batch_size: 4}]"
    rewrite(sweep_file, ("num_frames: [4, 8]\nframes_per_step: 16", cells))
    shapes = [run.shape for run in read_plan(sweep_file).runs if run.arm == "bn"]
    assert shapes == [(32, 4, 8), (64, 2, 4)]  # the second with the recipe's stride


@pytest.mark.parametrize(
    "budget, steps, options",
    [
        ("{steps: 10}", [10, 10], {"trainer.max_steps": 10, "trainer.max_epochs": -1}),
        ("{epochs: 3}", [None, None], {"trainer.max_epochs": 3, "trainer.max_steps": -1}),
        (
            "{frames: 100}",
            [7, 7],
            {"trainer.max_steps": 7, "trainer.max_epochs": -1},
        ),  # 16 a step, rounded up
    ],
)
def test_budget(sweep_file, budget, steps, options):
    rewrite(sweep_file, ("{steps: 10}", budget))
    runs = [run for run in read_plan(sweep_file).runs if run.arm == "bn"]
    assert [run.steps for run in runs] == steps
    assert options.items() <= runs[0].options(Path()).items()


def test_accumulation_of_the_recipe_counts(sweep_file):
    rewrite(sweep_file.parent / "recipe.yaml", ("model:", "trainer: {accumulate_grad_batches: 2}\nmodel:"))
    runs = read_plan(sweep_file).runs
    assert [(run.shape, run.accumulate) for run in runs[:2]] == [((4, 2, 2), 2), ((8, 2, 1), 2)]


def test_the_last_word_on_stride_and_accelerator_counts(sweep_file):
    rewrite(sweep_file, ("budget:", "overrides: {data.frame_stride: 5, trainer.accelerator: cpu}\nbudget:"))
    with pytest.raises(UserError, match=r"overrides \(data.frame_stride\) must leave to the sweep"):
        read_plan(sweep_file)
    rewrite(sweep_file, ("data.frame_stride: 5, ", ""))
    rewrite(sweep_file.parent / "gn_ws.yaml", ("model:", "data: {frame_stride: 3}\nmodel:"))
    plan = read_plan(sweep_file)
    assert plan.on_cpu
    assert [run.shape.frame_stride for run in plan.runs] == [2, 2, 3, 3]


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("budget", "buget", r"sweep.yaml key \(buget\) must be one of name, recipe, norms.*mean budget\?$"),
        ("recipe: recipe.yaml\n", "", "sweep.yaml: the following arguments are required: recipe"),
        ("name: tiny", "name: a/b", r"name \(a/b\) must be a folder name"),
        ("recipe.yaml", "absent.yaml", r"recipe \(.*absent.yaml\) must be a readable file: No such file"),
        ("[bn.yaml]", "[absent.yaml]", r"norms.bn \(.*absent.yaml\) must be a readable file: No such file"),
        ("[bn.yaml]", "bn.yaml", r"norms \(bn.yaml\) must be a list"),
        ("bn: [bn.yaml]", "b-n: [bn.yaml]", r"norms \(b-n\) must be named with letters, digits and '_'"),
        ("{bn: [bn.yaml], gn_ws: [gn_ws.yaml]}", "{}", "norms must name at least one arm"),
        ("[4, 8]", "[]", r"num_frames \(\[\]\) must be a list with at least one number"),
        ("[4, 8]", "4", r"num_frames \(4\) must be a list"),
        ("[4, 8]", "[4, 4]", r"num_frames \(\[4, 4\]\) must not repeat a value"),
        ("[4, 8]", "[4, 0]", r"num_frames \(0\) must be an integer of at least 1"),
        ("[4, 8]", "[4, true]", r"num_frames \(True\) must be an integer of at least 1"),
        ("[4, 8]", "[4, 6]", r"frames_per_step \(16\) must be a multiple of num_frames \(6\)$"),
        ("num_frames: [4, 8]\n", "", "a sweep with frames_per_step must have the key num_frames"),
        (
            "frames_per_step: 16\n",
            "",
            "must give one of batch_size, frames_per_step and cells, not none of them",
        ),
        ("frames_per_step: 16", "frames_per_step: 16\nbatch_size: [2]", "not batch_size and frames_per_step"),
        ("frames_per_step: 16", "cells: []", "a sweep must give num_frames or cells, not both"),
        ("num_frames: [4, 8]\nframes_per_step: 16", "cells: []", r"cells \(\[\]\) must be a list"),
        (
            "num_frames: [4, 8]\nframes_per_step: 16",
            "cells: [{num_frames: 4, batch: 2}]",
            r"cells\[0\] key \(batch\) must be one of num_frames, frame_stride, batch_size; did you mean b",
        ),
        (
            "num_frames: [4, 8]\nframes_per_step: 16",
            "cells: [{num_frames: 4}]",
            r"cells\[0\]: the following arguments are required: batch_size",
        ),
        (
            "num_frames: [4, 8]\nframes_per_step: 16",
            "cells: [{num_frames: 4, batch_size: 1}, {num_frames: 4, batch_size: 1}]",
            r"cells\[1\] \(4 x 2, batch_size 1\) must not repeat a shape",
        ),
        ("{steps: 10}", "{steps: 10, epochs: 1}", r"budget \(steps, epochs\) must give exactly one of steps"),
        (
            "{steps: 10}",
            "{minutes: 1}",
            r"budget \(minutes\) must give exactly one of steps, epochs and frames",
        ),
        ("{steps: 10}", "{steps: 0}", r"budget \(0\) must be an integer of at least 1"),
        ("{steps: 10}", "{steps: 10}\nseeds: []", r"seeds \(\[\]\) must be a list with at least one number"),
        ("{steps: 10}", "{steps: 10}\nseeds: [-1]", r"seeds \(-1\) must be an integer of at least 0"),
        ("{steps: 10}", "{steps: 10}\njobs: 0", r"jobs \(0\) must be an integer of at least 1"),
        ("{steps: 10}", "{steps: 10}\noverrides: [a]", r"overrides \(\['a'\]\) must be a mapping"),
        (
            "{steps: 10}",
            "{steps: 10}\noverrides: {data.num_frames: 3}",
            r"overrides \(data.num_frames\) must leave to the sweep what it sets itself",
        ),
        ("norms: {", "norms: {{", r"sweep file \(.*\) must be valid YAML: .*line"),
    ],
)
def test_a_mistake_is_one_sentence(sweep_file, old, new, sentence):
    rewrite(sweep_file, (old, new))
    with pytest.raises(UserError, match=sentence) as error:
        read_plan(sweep_file)
    assert "\n" not in str(error.value)


def test_a_stride_must_be_known(sweep_file):
    rewrite(sweep_file.parent / "recipe.yaml", ("data: {frame_stride: 2}", ""))
    with pytest.raises(
        UserError, match="frame_stride must be given, in the sweep file or as data.frame_stride"
    ):
        read_plan(sweep_file)
    rewrite(sweep_file, ("budget:", "frame_stride: 7\nbudget:"))
    assert read_plan(sweep_file).runs[0].name == "bn_4x7_b4_s0"


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match=r"sweep file \(.*none.yaml\) must be a readable file: No such file"):
        read_plan(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match=r"sweep file \(.*list.yaml\) must be a mapping of keys to values"):
        read_plan(tmp_path / "list.yaml")
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(UserError, match=r"sweep file \(.*image.yaml\) must be a text file in UTF-8"):
        read_plan(tmp_path / "image.yaml")


def test_kinetics_is_the_papers_table():
    plan = read_plan(KINETICS)
    shapes = [run.shape for run in plan.runs]
    assert shapes == [(32, 2, 8), (32, 2, 4), (64, 1, 4)] * 3
    assert list(dict.fromkeys(run.arm for run in plan.runs)) == ["bn", "gn", "gn_ws"]
    assert {shape.num_frames * shape.frame_stride for shape in shapes} == {64}


def test_a_class_path_in_the_overrides_stays_as_it_is_written(sweep_file, tmp_path):
    callbacks = [{"class_path": "own.Callback", "init_args": {"every": 2}}]
    sweep_file.write_text(
        sweep_file.read_text() + f"overrides: {{trainer.callbacks: {json.dumps(callbacks)}}}\n"
    )
    arguments = read_plan(sweep_file).runs[0].arguments(tmp_path)
    assert f"--trainer.callbacks={json.dumps(callbacks)}" in arguments

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
            'overrides: {data.decoder: "007", trainer.profiler: 5, model.backbone: true, data.mean: [1, 2]}\n'
            "budget:",
        ),
    )
    run = read_plan(sweep_file).runs[3]
    folder = sweep_file.parent
    assert run.arguments(Path("/runs/x")) == [
        "-c",
        str(folder / "recipe.yaml"),
        "-c",
        str(folder / "gn_ws.yaml"),
        "--data.decoder=007",
        "--trainer.profiler=5",
        "--model.backbone=true",
        "--data.mean=[1, 2]",
        "--data.num_frames=8",
        "--data.frame_stride=2",
        "--data.batch_size=2",
        '--trainer.callbacks+=[{"class_path": "videonorm.training.ScoreAtLengths", "init_args": '
        '{"views": [[4, 2, 1]]}}]',
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
        ("[4, 8]", "[]", r"num_frames \(\[\]\) must be a list with at least one value"),
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
            r"budget \(minutes\) must give exactly one of steps, epochs, clips, frames, seconds",
        ),
        ("{steps: 10}", "{steps: 0}", r"budget \(0\) must be an integer of at least 1"),
        ("{steps: 10}", "{steps: 10}\nseeds: []", r"seeds \(\[\]\) must be a list with at least one value"),
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


def test_any_option_is_an_axis(sweep_file):
    rewrite(sweep_file, ("budget:", "axes: {data.crop_size: [32, 64], model.backbone: [a b, null]}\nbudget:"))
    runs = read_plan(sweep_file).runs
    assert len(runs) == 2 * 2 * 4
    assert [run.name for run in runs[:3]] == [
        "bn_4x2_b4_crop-size-32_backbone-a-b_s0",
        "bn_8x2_b2_crop-size-32_backbone-a-b_s0",
        "bn_4x2_b4_crop-size-32_backbone-null_s0",
    ]
    assert {"--data.crop_size=32", "--model.backbone=null"} < set(runs[2].arguments(Path()))
    assert runs[2].values == {"data.crop_size": 32, "model.backbone": None}


def test_axes_are_told_apart_by_as_few_parts_as_it_takes(sweep_file):
    axes = "axes: {model.backbone.init_args.norm.x: [1], model.backbone.init_args.conv.x: [2]}\nbudget:"
    rewrite(sweep_file, ("budget:", axes))
    assert read_plan(sweep_file).runs[0].name == "bn_4x2_b4_norm.x-1_conv.x-2_s0"


def test_accumulation_is_an_axis_that_takes_from_the_batch(sweep_file):
    rewrite(sweep_file, ("budget:", "axes: {trainer.accumulate_grad_batches: [1, 2]}\nbudget:"))
    runs = [run for run in read_plan(sweep_file).runs if run.arm == "bn"]
    assert [(run.shape.batch_size, run.accumulate) for run in runs] == [(4, 1), (2, 1), (2, 2), (1, 2)]
    assert {run.frames_per_step for run in runs} == {16}


def test_clips_by_time_have_no_stride(sweep_file):
    rewrite(sweep_file.parent / "recipe.yaml", ("frame_stride: 2", "frames_per_second: 12.5"))
    plan = read_plan(sweep_file)
    assert plan.runs[-1].name == "gn-ws_8_b2_s0"
    assert "--data.frame_stride=null" in plan.runs[-1].arguments(Path())
    assert plan.varies is None
    rewrite(sweep_file, ("budget:", "overrides: {data.frames_per_second: null}\nframe_stride: 3\nbudget:"))
    assert read_plan(sweep_file).runs[-1].name == "gn-ws_8x3_b2_s0"


@pytest.mark.parametrize(
    "keys, varies",
    [
        ("num_frames: [4, 8]\nspan: 16", "density"),
        ("num_frames: [4, 8]\nframe_stride: 3", "extent"),
        ("num_frames: [4]\nframe_stride: 3", None),
    ],
)
def test_longer_clips_are_denser_or_of_more_video(sweep_file, keys, varies):
    rewrite(sweep_file, ("num_frames: [4, 8]", keys))
    plan = read_plan(sweep_file)
    assert plan.varies == varies
    if varies == "density":
        assert [run.shape.frame_stride for run in plan.runs[:2]] == [4, 2]


@pytest.mark.parametrize(
    "rule, rates", [("linear", [0.1, 0.05]), ("sqrt", [0.1, 0.1 / 2**0.5]), ("constant", [0.1, 0.1])]
)
def test_the_learning_rate_follows_the_clips_of_a_step(sweep_file, rule, rates):
    rewrite(sweep_file, ("budget:", f"lr: {{rule: {rule}, value: 0.1, clips: 4}}\nbudget:"))
    runs = [run for run in read_plan(sweep_file).runs if run.arm == "bn"]
    assert [run.lr for run in runs] == pytest.approx(rates)
    assert f"--model.optimizer.init_args.lr={runs[1].lr}" in runs[1].arguments(Path())


def test_the_devices_of_a_run_count_in_its_step(sweep_file):
    rewrite(sweep_file, ("{steps: 10}", "{clips: 100}\noverrides: {trainer.devices: 2}"))
    assert [run.steps for run in read_plan(sweep_file).runs[:2]] == [13, 25]


SEARCH = """
search:
  options:
    bn: {model.optimizer.init_args.lr: [0.1, 0.2, 0.3, 0.4]}
    gn_ws: {model.optimizer.init_args.lr: [0.1, 0.2], model.backbone.init_args.norm: [1, 2]}
  budget: {steps: 5}
  num_frames: 4
  batch_size: 2
"""


def test_what_a_search_finds_settles_the_runs(sweep_file, result):
    sweep_file.write_text(sweep_file.read_text() + "lr: {rule: linear}\n" + SEARCH)
    plan = read_plan(sweep_file)
    assert [run.arm for run in plan.search.runs] == ["bn"] * 4 + ["gn_ws"] * 4
    trial = plan.search.runs[-1]
    assert trial.name == "gn-ws_4x2_b2_lr-0.2_norm-2_s0"
    assert {"--data.held_out=0.25", "--trainer.max_steps=5"} < set(trial.arguments(Path()))

    scores = [0.5, None, 0.9, 0.7, 0.4, 0.8, 0.3, 0.8]  # of two that are equal the first
    rows = [
        result(run.arm, 4, 2, top1, run=run.name, axes={k: str(v) for k, v in run.values.items()})
        for run, top1 in zip(plan.search.runs, scores, strict=True)
    ]
    settled = plan.with_found(rows)
    assert settled.search is None
    assert {run.arm: run.found for run in settled.runs} == {
        "bn": {},
        "gn_ws": {"model.backbone.init_args.norm": 2},
    }
    # Found at 2 clips a step; the cells have 4 and 2.
    assert [run.lr for run in settled.runs] == pytest.approx([0.6, 0.3, 0.2, 0.1])


def test_an_arm_whose_trials_all_failed_ends_the_sweep(sweep_file, result):
    sweep_file.write_text(sweep_file.read_text() + SEARCH)
    plan = read_plan(sweep_file)
    rows = [result(run.arm, 4, 2, 0.5 if run.arm == "bn" else None, run=run.name) for run in plan.search.runs]
    with pytest.raises(UserError, match=r"search \(gn_ws\) must have a trial with a result: all have failed"):
        plan.with_found(rows)


@pytest.mark.parametrize(
    "lines, sentence",
    [
        (
            "axes: {data.crop_siz: [1]}",
            r"axes must be options of videonorm fit: --data.crop_siz is no option; did you mean",
        ),
        (
            "axes: {data.crop_size: []}",
            r"axes.data.crop_size \(\[\]\) must be a list with at least one value",
        ),
        ("axes: {data.crop_size: [1, 1]}", r"axes.data.crop_size \(\[1, 1\]\) must not repeat a value"),
        ("axes: {data.batch_size: [1]}", r"axes \(data.batch_size\) must leave to the sweep what it sets"),
        (
            "axes: {data.decoder: [1]}\noverrides: {data.decoder: 1}",
            r"axes \(data.decoder\) must leave to the sweep",
        ),
        (
            "axes: {data.decoder: [a/b, a b]}",
            r"axes must have values whose texts differ in letters and digits",
        ),
        ("overrides: {trainer.devices: [2, 3]}", r"trainer.devices \(\[2, 3\]\) must be a number in a sweep"),
        ("span: 12", r"span \(12\) must be a multiple of num_frames \(8\)"),
        ("span: 16\nframe_stride: 2", r"span \(16\) must stand without frame_stride"),
        ("lr: {rule: linear}", r"lr.value must be given, or model.optimizer.init_args.lr be in the search"),
        ("lr: {rule: linear, value: 0.1}", r"lr must give clips beside value \(0.1\)"),
        ("lr: {rule: steep, value: 0.1}", r"lr.*rule"),
        (
            SEARCH.replace("    bn:", "    bm:"),
            r"search.options \(bm, bn\) must have every arm, and no other",
        ),
        (
            SEARCH.replace(", 0.4]", "]"),
            r"search.options \(bn 3, gn_ws 4 trials\) must give every arm as many",
        ),
        (SEARCH + "lr: {rule: linear, value: 1, clips: 1}", r"lr.value \(1\) must be left out: search"),
        (
            SEARCH.replace("model.backbone.init_args.norm", "trainer.accumulate_grad_batches"),
            r"search.options \(trainer.accumulate_grad_batches\) must leave out what sizes a step or a clip",
        ),
        (SEARCH + "  held_out: 1", r"search.held_out \(1\) must be a share below 1"),
        (SEARCH.replace("steps: 5", "clips: 1"), r"budget.clips \(1\) must be that of a step at least"),
    ],
)
def test_a_mistake_in_the_further_keys_is_one_sentence(sweep_file, lines, sentence):
    sweep_file.write_text(f"{sweep_file.read_text()}{lines}\n")
    with pytest.raises(UserError, match=sentence) as error:
        read_plan(sweep_file)
    assert "\n" not in str(error.value)


def test_a_model_is_scored_at_every_length_and_at_as_many_frames_as_the_longest(sweep_file):
    rewrite(sweep_file, ("budget:", "overrides: {data.num_val_clips: 3}\nbudget:"))
    assert [run.views for run in read_plan(sweep_file).runs[:2]] == [((8, 2, 3), (4, 2, 6)), ((4, 2, 3),)]
    rewrite(sweep_file, ("budget:", "cross_test: false\nbudget:"))
    assert {run.views for run in read_plan(sweep_file).runs} == {()}


def test_seconds_of_training_are_a_budget(sweep_file):
    rewrite(sweep_file, ("{steps: 10}", "{seconds: 60}"))
    run = read_plan(sweep_file).runs[0]
    options = run.options(Path())
    assert run.steps is None and (options["trainer.max_steps"], options["trainer.max_epochs"]) == (-1, -1)
    assert options["trainer.callbacks+"][1] == {
        "class_path": "videonorm.training.TimeBudget",
        "init_args": {"seconds": 60},
    }

"""What a run cannot take over from a checkpoint is refused in a sentence, before anything is written."""

import functools
import json
import operator
import os

import pytest
import torch
import yaml

from videonorm.errors import UserError
from videonorm.evaluation.checkpoint import read_checkpoint
from videonorm.training.cli import main
from videonorm.training.resume import check_settings, check_state, check_world_size, settled


def run(command, recipe, folder, *options):
    main([command, "-c", str(recipe), "--trainer.default_root_dir", str(folder), *map(str, options)])


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run("fit", recipe, folder, "--trainer.max_steps", 2)
    return folder


SLOW = pytest.mark.slow


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NORM = {"class_path": "videonorm.layers.GroupNorm3d", "init_args": {"num_groups": 2}}
OPTIMIZER = {"class_path": "torch.optim.AdamW", "init_args": {"weight_decay": 1e-4}}
REFUSED = {
    "lr": ({"model.lr_per_256_clips": 1.0}, r"model.lr_per_256_clips \(1.0\) must be 3.2, as in the run"),
    "batch_size": ({"data.batch_size": 4}, r"data.batch_size \(4\) must be 2, as in"),
    "held_out": ({"data.held_out": 0.2}, r"data.held_out \(0.2\) must be 0.0"),
    "pace": (
        {"data.frame_stride": None, "data.frames_per_second": 5.0},
        r"data.frame_stride \(null\) must be 1; data.frames_per_second \(5.0\) must be null, as in",
    ),
    "seed": ({"seed_everything": 1}, r"seed_everything \(1\) must be 0"),
    "momentum": (
        {"model.optimizer.init_args.momentum": 0.5},
        r"model.optimizer.init_args.momentum \(0.5\) must be 0.9",
    ),
    "optimizer": (
        {"model.optimizer": OPTIMIZER},
        r"model.optimizer \(torch.optim.AdamW\) must be torch.optim.SGD, as in",
    ),
    "no_schedule": ({"model.scheduler": None}, r"model.scheduler \(null\) must be .*WarmupCosine, as"),
    "accumulate": (
        {"trainer.accumulate_grad_batches": 2},
        r"trainer.accumulate_grad_batches \(2\) must be 1",
    ),
    "clipping": ({"trainer.gradient_clip_val": 1}, r"trainer.gradient_clip_val \(1\) must be null"),
    "norm": (
        {"model.backbone.init_args.norm": NORM},
        r"model.backbone.init_args.norm \(.*GroupNorm3d\) must be .*BatchNorm3d",
    ),
    "several": (
        {"data.batch_size": 4, "data.num_frames": 2, "seed_everything": 1, "data.hflip": False},
        r"seed_everything \(1\) .*; data.num_frames \(2\) must be 4; .* must be 2, and 1 more, as in",
    ),
}
FREE = {
    "data.num_workers": 3,
    "data.source.init_args.root": "elsewhere",
    "model.backbone.init_args.recompute": "blocks",
    "model.compile": "default",
    "model.cuda_graph": True,
    "trainer.max_steps": 9,
    "trainer.precision": "bf16-mixed",
    "trainer.default_root_dir": "elsewhere",
}


def put(config, values):
    for key, value in values.items():
        *parents, name = key.split(".")
        functools.reduce(operator.getitem, parents, config)[name] = value
    return config


@pytest.fixture
def config(finished):
    return yaml.safe_load((finished / "config.yaml").read_text())


@pytest.fixture(scope="module")
def saved(finished):
    return read_checkpoint(finished / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("values, message", REFUSED.values(), ids=REFUSED)
def test_settings_that_a_checkpoint_holds(config, saved, values, message):
    with pytest.raises(UserError, match=message):
        check_settings(settled(put(config, values)), saved, "last.ckpt")


def test_settings_that_leave_no_trace_in_it(config, saved):
    check_settings(settled(put(config, FREE)), saved, "last.ckpt")
    saved_by_another_version = {"videonorm": {"settings": {"data": {"unheard_of": 3}}}}
    check_settings(settled(config), saved_by_another_version, "last.ckpt")


def test_nothing_is_written_before_they_are_compared(recipe, finished):
    before = content(finished)
    with pytest.raises(UserError, match=r"data.batch_size \(4\) must be 2, as in"):
        run("fit", recipe, finished, "--data.batch_size", 4, "--ckpt_path", "last", "--trainer.max_steps", 3)
    assert content(finished) == before


FOREIGN = {
    "weights": (
        lambda whole: whole["state_dict"].update({"backbone.head.bias": torch.zeros(3)}),
        r"must hold weights .*, and backbone.head.bias is \(3,\) instead of \(2,\)",
    ),
    "another_module": (
        lambda whole: whole.update(state_dict={"model.weight": torch.zeros(1)}),
        r"must hold every weight of the model, and backbone\..* is missing",
    ),
    "weights_only": (
        lambda whole: [whole.pop(name) for name in ("optimizer_states", "lr_schedulers")],
        r"must hold the state of a training to go on with, and optimizer_states is missing",
    ),
}


@pytest.mark.parametrize("change, message", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_checkpoint(saved, change, message):
    foreign = {**saved, "state_dict": dict(saved["state_dict"])}
    change(foreign)
    with pytest.raises(UserError, match=rf"ckpt_path \(foreign.ckpt\) {message}"):
        check_state(saved["state_dict"], foreign, "foreign.ckpt", training=True)


def edited(checkpoint, path, change):
    whole = torch.load(checkpoint, weights_only=True)
    change(whole)
    torch.save(whole, path)
    return path


def test_nothing_is_written_for_a_foreign_checkpoint(recipe, finished, tmp_path):
    """Of a network that these settings do not tell from ours."""
    foreign = edited(
        finished / "checkpoints" / "last.ckpt",
        tmp_path / "foreign.ckpt",
        lambda whole: [whole["state_dict"].pop("backbone.head.bias"), whole.pop("videonorm")],
    )
    with pytest.raises(UserError, match=r"must hold every weight of the model, and backbone.head.bias is"):
        run("fit", recipe, tmp_path / "run", "--ckpt_path", foreign, "--trainer.max_steps", 3)
    assert os.listdir(tmp_path) == ["foreign.ckpt"]


@pytest.mark.parametrize("command", ["test", *(pytest.param(c, marks=SLOW) for c in ("validate", "predict"))])
def test_another_network_is_not_judged(recipe, finished, tmp_path, command):
    checkpoint = finished / "checkpoints" / "last.ckpt"
    options = ["--ckpt_path", checkpoint, "--model.backbone.init_args.norm", json.dumps(NORM)]
    with pytest.raises(UserError, match=r"ckpt_path \(.*last.ckpt\) must hold no weight that the model"):
        run(command, recipe, tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_an_earlier_version_goes_on(recipe, finished, tmp_path):
    """It knows nothing of settings."""
    old = edited(
        finished / "checkpoints" / "last.ckpt",
        tmp_path / "old.ckpt",
        lambda whole: [whole["videonorm"].pop(name) for name in ("settings", "world_size")],
    )
    run("fit", recipe, tmp_path / "run", "--ckpt_path", old, "--trainer.max_steps", 3)


def test_another_number_of_devices():
    with pytest.raises(UserError, match=r"devices \(1\) must be 2, as in the run"):
        check_world_size(1, {"videonorm": {"world_size": 2}}, "last.ckpt")

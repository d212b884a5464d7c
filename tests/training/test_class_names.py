"""What a label is called is settled by the network: in the same order wherever it is judged."""

import csv
import json
import shutil

import pytest

from videonorm.errors import UserError
from videonorm.training.cli import main

CLASSES = ["bright", "dark", "empty"]


def tree(folder, videos, classes):
    """A folder of class folders; the videos 0, 2, ... are dark and 1, 3, ... bright."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(6):
            shutil.copy(videos.folder / f"{2 * number + (name == 'bright')}.mp4", folder / name)
    return folder


def run(command, recipe, folder, *options):
    main([command, "-c", str(recipe), "--trainer.default_root_dir", str(folder), *map(str, options)])


@pytest.fixture(scope="module")
def trained(recipe, videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("class_names")
    source = "--data.source.init_args."
    everything = tree(folder / "all", videos, CLASSES)
    options = [source + "train", everything, source + "val", everything]
    options += ["--model.backbone.init_args.num_classes", 3, "--trainer.max_steps", 2]
    run("fit", recipe, folder / "run", *options)
    return folder / "run" / "checkpoints" / "last.ckpt"


def labels_of(path):
    with open(path, newline="") as file:
        return [(row["path"].split("/")[-2], row["label"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_folder_that_lacks_a_class(trained, recipe, videos, tmp_path, command):
    part = tree(tmp_path / "part", videos, ["dark"])
    source = "--data.source.init_args."
    options = [source + "train", "null", source + "val", part, source + "test", part]
    options += ["--model.backbone.init_args.num_classes", 3, "--ckpt_path", trained]
    run(command, recipe, tmp_path / "run", *options)
    table = tmp_path / "run" / ("predictions.csv" if command == "predict" else f"{command}.csv")
    assert labels_of(table) == [("dark", "1")] * 6
    if command == "predict":
        assert table.read_text().splitlines()[0] == "path,label,predicted,bright,dark,empty"


def test_a_class_that_the_network_does_not_know(trained, recipe, videos, tmp_path):
    foreign = tree(tmp_path / "foreign", videos, ["dark", "zebra"])
    source = "--data.source.init_args."
    options = [source + "train", "null", source + "val", "null", source + "test", foreign]
    options += ["--model.backbone.init_args.num_classes", 3, "--ckpt_path", trained]
    with pytest.raises(UserError, match=r"label \(zebra\) must be one of the 3 class names"):
        run("test", recipe, tmp_path / "run", *options)


def test_a_run_goes_on_with_its_own_labels(trained, recipe, videos, tmp_path, capsys):
    shutil.copytree(trained.parents[1], tmp_path / "run")
    less = tree(tmp_path / "less", videos, ["dark", "empty"])
    source = "--data.source.init_args."
    options = [source + "train", less, source + "val", less, "--ckpt_path", "last"]
    options += ["--model.backbone.init_args.num_classes", 3, "--trainer.max_steps", 3]
    run("fit", recipe, tmp_path / "run", *options)
    assert set(labels_of(tmp_path / "run" / "val.csv")) == {("dark", "1"), ("empty", "2")}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["step"] == 3
    assert "an epoch is now 6 batches, and was 9: of other clips" in capsys.readouterr().out

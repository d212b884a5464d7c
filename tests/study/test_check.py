"""What is said of a study before anything runs."""

from pathlib import Path

import pytest

from videonorm.errors import UserError
from videonorm.study.check import check
from videonorm.study.study_file import read_study, study_plan

FILES = sorted((Path(__file__).parents[2] / "configs" / "study").glob("*.yaml"))
LR = "model.optimizer.init_args.lr"


@pytest.fixture
def checked(claimed, recorder):
    def run(claim, seeds=4, recorders=(), **sweep):
        study = claimed(claim, seeds, [recorder, *recorders], **sweep)
        check(study, study_plan(study))

    return run


def test_a_study_that_its_sweep_and_recorders_can_answer(checked):
    checked({})
    checked({"measure": {"table": "depths", "column": "slope", "where": {"block": "layer1"}}})
    checked({"measure": {"table": "metrics", "column": "val/top1"}})
    checked({"measure": {"largest": "lr"}}, axes={LR: [0.1, 0.2]})
    time = {"measure": {"column": "train/loss", "time_to": 1.0}, "statistic": "log_rank"}
    checked({**time, "of": {"norm": "bn", "batch_size": 2}})


@pytest.mark.parametrize(
    "claim, said",
    [
        ({"of": {"norm": "gm"}}, r"tiny claim S1: of \(norm: gm\) must be one of the sweep's: bn, gn_ws"),
        ({"measure": "val_los"}, r"claim S1: column \(val_los\) must be one of results.csv: .*val_loss\?"),
        ({"measure": "conv"}, r"column \(conv\) must be one of results.csv"),
        (
            {"measure": {"table": "depth", "column": "slope"}},
            r"table \(depth\) must be one that the study's recorders write: depths, metrics; did you mean de",
        ),
        (
            {"measure": {"table": "depths", "column": "slop"}},
            r"column \(slop\) must be one of depths: block, s",
        ),
        (
            {"measure": {"table": "depths", "column": "slope", "where": {"blok": 1}}},
            r"column \(blok\) must be one of depths: .*; did you mean block\?",
        ),
        (
            {"measure": {"largest": "norm"}, "of": {}},
            r"largest \(norm\) must have two values at least, all num",
        ),
        (
            {"measure": {"column": "train/loss", "time_to": 1.0}, "statistic": "log_rank"},
            "of must name batch_size too: log_rank is of two cells",
        ),
    ],
    ids=str,
)
def test_mistakes(checked, claim, said):
    with pytest.raises(UserError, match=said):
        checked(claim)


def test_too_few_seeds(checked):
    with pytest.raises(UserError, match=r"seeds \(1\) must be at least 2 for statistic difference"):
        checked({}, seeds=1)
    time = {"measure": {"column": "train/loss", "time_to": 1.0}, "statistic": "log_rank"}
    with pytest.raises(UserError, match=r"seeds \(3\) must be at least 4 for statistic log_rank"):
        checked({**time, "of": {"norm": "bn", "batch_size": 2}}, seeds=3)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (
            {"class_path": "recorders_of_a_test.Recorde"},
            r"recorders \(recorders_of_a_test.Recorde\) must be a class",
        ),
        (
            {"class_path": "nowhere.Recorder"},
            r"recorders \(nowhere.Recorder\) must be a class that can be imp",
        ),
        ({"class_path": "recorders_of_a_test"}, r"recorders \(recorders_of_a_test\) must be a class"),
        (
            {"class_path": "recorders_of_a_test.Recorder", "init_args": {"every": 1}},
            r"recorders \(recorders_of_a_test.Recorder: every\) must be an argument of it",
        ),
    ],
)
def test_recorders_that_there_are_not(checked, wrong, said):
    with pytest.raises(UserError, match=said):
        checked({}, recorders=[wrong])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_studies_of_the_project(file):
    assert file.read_text().startswith(f"# videonorm study run {file.stem}\n")
    for quick in (False, True):
        study = read_study(file, quick=quick)
        assert study.name == file.stem
        check(study, study_plan(study))

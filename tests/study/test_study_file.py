"""The keys of a study file, and what is wrong with them."""

import pytest
import yaml

from videonorm.errors import UserError
from videonorm.study.study_file import Measure, read_study, study_plan


def test_a_sweep_is_a_mapping_or_a_file_elsewhere(study_file, tmp_path):
    inside = read_study(study_file())
    assert inside.sweep.batch_size == [2, 4] and inside.folder == tmp_path
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweep.yaml").rename(tmp_path / "sweeps" / "sweep.yaml")
    study = read_study(study_file(sweep_file="sweeps/sweep.yaml"))
    assert study.name == study.sweep.name == "tiny"
    assert study.folder == tmp_path / "sweeps" and study.sweep.frames_per_step == 16
    with pytest.raises(UserError, match="recipe .*sweeps/recipe.yaml"):
        study_plan(study)


def test_quick_and_seeds_take_the_sweeps_place(study_file):
    assert read_study(study_file()).sweep.seeds == [0, 1, 2]
    quick = read_study(study_file(), quick=True)
    assert quick.sweep.seeds == [0, 1] and quick.sweep.budget == {"steps": 4}
    assert read_study(study_file(), quick=True, num_seeds=4).sweep.seeds == [0, 1, 2, 3]


def test_what_was_run_can_be_read_again(study_file, tmp_path):
    study = read_study(study_file(), quick=True)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(study.values))
    assert read_study(tmp_path / "again.yaml") == study


def test_recorders_are_callbacks_of_every_run_and_of_nothing_before(study_file, recorder, tmp_path):
    pretrain = {"num_frames": 4, "batch_size": 2, "budget": {"steps": 3}}
    study = read_study(study_file(recorders=[recorder], sweep={"pretrain": pretrain}))
    plan = study_plan(study)
    (option,) = (of for of in plan.runs[0].arguments(tmp_path) if of.startswith("--trainer.callbacks+="))
    assert '{"class_path": "recorders_of_a_test.Recorder", "init_args": {"every_n_steps": 5}}' in option
    assert not any("recorders_of_a_test" in of for of in plan.pretrain.runs[0].arguments(tmp_path))


def test_measures_in_words():
    assert Measure("val_top1").in_words == "val_top1"
    assert Measure("slope", "depths").in_words == "depths.slope"
    assert Measure("slope", "depths", log10=True).in_words == "log10 of depths.slope"
    assert Measure(largest="lr").in_words == "largest lr"
    assert Measure("train/loss", time_to=0.5).in_words == "steps to train/loss 0.5"


@pytest.mark.parametrize(
    "claims, said",
    [
        (
            [{"statistic": "diference"}],
            r"study.yaml claims\[0\] \(S1\): statistic \(diference\) must be one of",
        ),
        ([{"expected": None}], r"\(S1\): expected must be higher or lower, which difference is to tell"),
        ([{"id": "S9"}, {"id": "S9"}], r"claims\[1\] \(S9\) must have an id of its own"),
        ([{"agianst": {}}], r"key \(agianst\) must be one of .*; did you mean against\?"),
        ([{"of": None}], r"claims\[0\] \(S1\) must have the key of"),
        ([{"sentence": None}], r"claims\[0\] \(S1\): the following arguments are required: sentence"),
        ([{"measure": ["val_loss"]}], r"measure \(\['val_loss'\]\) must be a column or a mapping"),
        ([{"measure": {"column": "a", "largest": "lr"}}], r"measure: it must give one of column and largest"),
        ([{"measure": {"column": "a", "table": "b", "step": -1}}], r"measure: step \(-1\) must be one of"),
        ([{"measure": {"column": "a", "where": {"b": 1}}}], "measure: it must give table beside where"),
        ([{"statistic": "equivalence", "expected": None}], r"margin \(0\) must be above 0: equivalence is"),
        ([{"statistic": "equivalence", "margin": 1}], r"expected \(higher\) must be left out: equivalence"),
        ([{"margin": -1}], r"margin \(-1\) must be at least 0"),
        ([{"statistic": "slope", "against": None}], "along must name the axis that the slope is on"),
        ([{"statistic": "slope", "along": "batch_size"}], "against must be left out of a slope"),
        ([{"statistic": "interaction"}], "an interaction must give one of between, two cells, and along"),
        (
            [{"statistic": "non_inferiority", "margin": 1, "against": None}],
            "against must be given: non_infer",
        ),
        ([{"along": "batch_size"}], r"along \(batch_size\) must be left out: difference is along no axis"),
        ([{"statistic": "log_rank"}], r"statistic \(log_rank\) must be log_rank for a time_to, and for noth"),
        ([{"measure": {"largest": "lr", "log10": True}}], "must give log10 of a column alone"),
        (
            [{"measure": {"column": "val_loss", "log10": True}, "statistic": "ratio"}],
            "measure must be without log10 for a ratio",
        ),
        ([], r"claims \(\[\]\) must be a list with at least one claim"),
    ],
    ids=str,
)
def test_mistakes_in_claims(study_file, claims, said):
    with pytest.raises(UserError, match=said):
        read_study(study_file(claims))


@pytest.mark.parametrize(
    "more, said",
    [
        ({"name": "a/b"}, r"name \(a/b\) must be a folder name"),
        ({"claim": []}, r"study.yaml key \(claim\) must be one of .*; did you mean claims\?"),
        ({"quick": {"seed": [0]}}, r"study.yaml sweep key \(seed\) must be one of .*; did you mean seeds\?"),
        ({"recorders": [{"class": "a"}]}, "must have a class_path and, if need be, init_args"),
        ({"sweep_file": "none.yaml"}, r"sweep \(.*none.yaml\) must be a readable file: No such file"),
    ],
    ids=str,
)
def test_mistakes(study_file, more, said):
    with pytest.raises(UserError, match=said):
        read_study(study_file(**more), quick="quick" in more)

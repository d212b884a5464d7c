"""The cells that a claim weighs against each other."""

from pathlib import Path

import pytest

from videonorm.errors import UserError
from videonorm.study.contrasts import Grid, claimed, contrast
from videonorm.study.study_file import read_study, study_plan
from videonorm.sweep.records import planned

LR = "model.optimizer.init_args.lr"


@pytest.fixture
def weights(claimed):
    """By "arm B [lr]", of the one claim of a study."""

    def find(claim, **sweep):
        study = claimed(claim, **sweep)
        grid = Grid(study.sweep.axes, map(planned, study_plan(study).runs))
        found = contrast(study.claims[0], grid)
        return {" ".join([arm, size, *axes]): weight for (arm, _, _, size, *axes), weight in found.items()}

    return find


def test_a_difference_is_averaged_over_what_neither_cell_names(weights):
    assert weights({}) == {"bn 2": 0.5, "bn 4": 0.5, "gn_ws 2": -0.5, "gn_ws 4": -0.5}
    assert weights({"of": {"norm": "bn", "batch_size": 2}}) == {"bn 2": 1, "gn_ws 2": -1}
    of, against = {"norm": "bn", "batch_size": 2}, {"batch_size": 4}
    assert weights({"of": of, "against": against}) == {"bn 2": 1, "bn 4": -1}
    assert weights({"against": None}) == {"bn 2": 0.5, "bn 4": 0.5}


def test_an_interaction_is_a_difference_of_differences(weights):
    claim = {"statistic": "interaction", "between": [{"batch_size": 2}, {"batch_size": 4}]}
    assert weights(claim) == {"bn 2": 1, "gn_ws 2": -1, "bn 4": -1, "gn_ws 4": 1}


def test_a_slope_is_of_a_doubling(weights):
    slope = {"statistic": "slope", "against": None, "along": "batch_size"}
    found = weights(slope, batch_size=[1, 2, 4])
    assert found == pytest.approx({"bn 1": -0.5, "bn 2": 0, "bn 4": 0.5})
    found = weights({"statistic": "interaction", "along": "batch_size"}, batch_size=[1, 4])
    assert found == pytest.approx({"bn 1": -0.5, "bn 4": 0.5, "gn_ws 1": 0.5, "gn_ws 4": -0.5})


def test_axes_are_named_by_their_ends_and_the_largest_is_left_open(weights):
    of = {"norm": "bn", "lr": 0.1, "batch_size": 2}
    assert weights({"of": of, "against": {"lr": 0.2}}, axes={LR: [0.1, 0.2]}) == {
        "bn 2 0.1": 1,
        "bn 2 0.2": -1,
    }
    claim = {"measure": {"largest": "lr"}, "statistic": "ratio", "of": {"norm": "bn", "batch_size": 2}}
    assert weights(claim, axes={LR: [0.1, 0.2]}) == {"bn 2 ": 1, "gn_ws 2 ": -1}


@pytest.mark.parametrize(
    "claim, said",
    [
        ({"of": {"norm": "in"}}, r"of \(norm: in\) must be one of the sweep's: bn, gn_ws"),
        ({"of": {"nrom": "bn"}}, r"of \(nrom\): nrom must be one of norm, .*; did you mean norm\?"),
        ({"of": {"size": 2}}, r"of \(size\): size must be one of norm, num_frames, .*; it is the end of"),
        ({"against": {"norm": "gn_ws", "batch_size": 2}}, "of must name batch_size too, which against names"),
        ({"against": {}}, r"of \(norm: bn\) must be compared with another cell than itself"),
        ({"statistic": "interaction", "along": "norm"}, r"along \(norm\) must be left open by the cells"),
        (
            {"statistic": "interaction", "along": "num_frames"},
            "at two values of num_frames at least: the sweep",
        ),
        (
            {"statistic": "interaction", "between": [{"norm": "bn"}, {"batch_size": 2}]},
            "between must be two cel",
        ),
        ({"measure": {"largest": "lr"}, "of": {"norm": "bn", "lr": 0.1}}, "must be left open by the cells"),
    ],
    ids=str,
)
def test_mistakes(weights, claim, said):
    with pytest.raises(UserError, match=said):
        weights(claim, axes={LR: [0.1, 0.2], "model.backbone.size": [1, 2], "model.optimizer.size": [1, 2]})


def test_cells_that_differ_in_more_than_they_name_are_not_compared(weights):
    with pytest.raises(
        UserError, match="must differ in nothing but what they name: the sweep has no such runs"
    ):
        weights(
            {"of": {"num_frames": 4}, "against": {"num_frames": 8}},
            num_frames=[4, 8],
            batch_size=None,
            frames_per_step=16,
        )


def test_runs_that_no_claim_is_about_are_left_out(study_file):
    study = read_study(study_file([{"of": {"norm": "bn", "batch_size": 2}}]))
    kept = [(run.arm, run.shape.batch_size, run.seed) for run in claimed(study, study_plan(study)).runs]
    assert kept == [(arm, 2, seed) for arm in ("bn", "gn_ws") for seed in (0, 1, 2)]


def test_a_claim_that_compares_nothing_is_named(study_file):
    study = read_study(study_file([{}, {"of": {"norm": "gm"}}]))
    with pytest.raises(
        UserError, match=r"^tiny claim S2: of \(norm: gm\) must be one of the sweep's: bn, gn_ws"
    ):
        claimed(study, study_plan(study))


def test_runs_along_what_a_claim_leaves_open_are_kept(study_file):
    of_largest = {"of": {"norm": "bn", "batch_size": 2}, "measure": {"largest": "lr"}}
    study = read_study(study_file([of_largest], {"axes": {LR: [0.1, 0.2]}}))
    kept = {(run.arm, run.shape.batch_size, run.axes[LR]) for run in claimed(study, study_plan(study)).runs}
    assert kept == {(arm, 2, lr) for arm in ("bn", "gn_ws") for lr in (0.1, 0.2)}


@pytest.mark.parametrize(
    "file",
    sorted((Path(__file__).parents[2] / "configs" / "study").glob("*.yaml")),
    ids=lambda file: file.stem,
)
def test_claims_of_the_project_weigh_the_same_without_the_rest(file):
    study = read_study(file, quick=True)
    whole = study_plan(study)
    part = claimed(study, whole)
    grids = [Grid(study.sweep.axes, map(planned, plan.runs)) for plan in (whole, part)]
    for claim in study.claims:
        of_whole, of_part = (contrast(claim, grid) for grid in grids)
        assert of_whole == of_part
    if part.pretrain:
        assert {run.arm for run in part.pretrain.runs} == {part.pretrained_as[run.arm] for run in part.runs}

"""Which figure a claim has, and what it shows, follows from what it measures and from what varies."""

from dataclasses import replace

import made_up_studies
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from videonorm.errors import UserError
from videonorm.study.figures import picture
from videonorm.study.result import StudyResult
from videonorm.study.study_file import Measure
from videonorm.sweep.drawing import lay_out


@pytest.fixture(scope="module")
def batch_curve(tmp_path_factory):
    return made_up_studies.batch_curve(tmp_path_factory.mktemp("of") / "batch_curve")


def drawn(study: StudyResult, claim: str, **how: bool) -> tuple[Figure, str]:
    """The figure of a claim, and its caption."""
    found = picture(study, next(of for of in study.study.claims if of.id == claim))
    assert found
    figure = found[0](**how)
    assert figure
    return figure, found[1]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]


def lines(axes) -> list[tuple[list[float], list[float]]]:
    found = [line.get_xydata().T for line in axes.lines if len(line.get_xydata()) > 1]
    return [(x.tolist(), y.tolist()) for x, y in found]


def test_activations_are_a_map_of_depth_and_step_for_each_arm(explosion):
    figure, caption = drawn(explosion, "S17")
    assert titles(figure)[:4] == ["none", "last_only", "bn", "gn_ws"]
    assert caption.startswith("Mean abs of each block over training")
    of_none, *_, of_gn_ws = (axes.images[0] for axes in figure.axes[:4])
    values = of_none.get_array()
    assert values.shape == (33, 3)  # blocks, steps until it diverged
    assert values[10, 0] == pytest.approx(0.4 * 10 ** (1.1 + 0.025))  # the geometric mean of two seeds
    assert (values[26:, 2] > of_none.norm.vmax).all() and (values[:26, 2] <= of_none.norm.vmax).all()
    assert of_gn_ws.norm is of_none.norm and of_gn_ws.get_array().shape == (33, 5)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "200", "400"]


def test_activations_of_one_step_are_lines_over_depth(explosion, tmp_path):
    for table in explosion.folder.rglob("activations.csv"):
        kept = [line for line in table.read_text().splitlines() if line.startswith(("step", "0,"))]
        (tmp_path / table.parent.name).mkdir()
        (tmp_path / table.parent.name / table.name).write_text("\n".join(kept))
    figure, caption = drawn(replace(explosion, folder=tmp_path), "S17")
    (axes,) = figure.axes
    assert "at step 0" in caption and axes.get_yscale() == "log"
    assert len(lines(axes)) == 8 and all(x == list(range(33)) for x, _ in lines(axes))


def test_a_largest_step_is_shown_by_the_loss_along_the_gradient(explosion):
    figure, caption = drawn(explosion, "S18")
    assert titles(figure) == ["After 0 steps", "After 400 steps", "After 800 steps"]
    assert "Below the dashed line" in caption
    arms = {line.get_color(): line.get_xydata() for line in figure.axes[0].lines if line.get_marker() == "o"}
    assert len(arms) == 4
    largest = max(arms.values(), key=lambda points: points[-1, 1])
    assert largest[0] == pytest.approx((1e-5, 1 + 1e5 * 1e-5 * 4 * 1.2))  # the median of three batches
    assert len([line for line in figure.axes[2].lines if line.get_marker() == "o"]) == 3  # one has diverged


def test_gradients_and_channels_are_lines_over_steps(explosion, batch_curve):
    figure, caption = drawn(explosion, "S19")
    assert caption.startswith("Top column share of logit_gradients.csv while training.")
    assert [0.9, 0.85, 0.8] in [y for _, y in lines(figure.axes[0])]
    figure, caption = drawn(batch_curve, "S25")
    assert titles(figure) == ["B = 1", "B = 4", "B = 32"] and "the mean of what was recorded" in caption
    steps, dead = lines(figure.axes[0])[1]  # of gn: the mean of layers of 0.1, 0.2 and 0.3
    assert steps == [0, 200, 400, 600, 800] and dead == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_the_largest_learning_rate_is_shown_by_accuracy_and_where_runs_are_lost(learning_rate):
    figure, caption = drawn(learning_rate, "S15")
    (axes,) = figure.axes
    assert caption.startswith("Validation top-1 against lr")
    assert axes.get_xlabel() == "lr" and axes.get_ylabel() == "validation top-1"
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [len(line.get_xdata()) for line in crosses] == [2, 1]  # of none and gn_ws
    assert "a run without a number" in [text.get_text() for text in figure.legends[0].get_texts()]
    means = next(y for x, y in lines(axes) if len(x) == 5)
    assert means[0] == pytest.approx(0.52)


def test_accuracy_over_batch_sizes_is_an_error(batch_curve):
    figure, caption = drawn(batch_curve, "S1", phone=True)
    (axes,) = figure.axes
    assert axes.get_ylabel() == "validation error" and caption.startswith(
        "Validation error against batch size"
    )
    assert [y for _, y in lines(axes)][0] == pytest.approx([0.4, 0.2, 0.1])


def test_a_logarithm_of_accuracy_is_no_percentage(batch_curve):
    claim = replace(batch_curve.study.claims[0], measure=Measure("val_top1", log10=True))
    found = picture(batch_curve, claim)
    assert found and found[1].startswith("Log10 of val top1 against batch size")
    (axes,) = found[0]().axes
    assert axes.get_ylabel() == "log10 of val top1"
    assert lines(axes)[0][1] == pytest.approx(np.log10([0.6, 0.8, 0.9]))
    assert not isinstance(axes.yaxis.get_major_formatter(), PercentFormatter)


def test_a_time_is_the_share_of_runs_that_are_not_there(learning_rate):
    figure, caption = drawn(learning_rate, "S28")
    assert titles(figure)[0] == "lr 0.0001" and "train/loss has not reached 0.5" in caption
    of_none, of_bn, _ = lines(figure.axes[0])  # gn_ws beside them, which the claim does not compare
    assert of_none == ([0, 800], [1, 1])  # censored at its budget
    assert of_bn[0] == [0, 361, 381, 401, 401] and of_bn[1] == pytest.approx([1, 2 / 3, 1 / 3, 0, 0])


def test_arms_alone_are_rows_of_dots_with_those_compared_in_bold(tmp_path):
    figure, caption = drawn(made_up_studies.norms(tmp_path / "norms"), "S5")
    labels = figure.axes[0].get_yticklabels()
    assert [of.get_text() for of in labels] == ["none", "bn", "gn", "ln", "in", "bn_ws", "gn_ws", "ln_ws"]
    assert [of.get_text() for of in labels if of.get_weight() == "bold"] == ["bn", "ln"]
    assert "in bold" in caption
    assert figure.axes[0].lines[1].get_xdata() == pytest.approx([0.46, 0.485])


def test_numbers_are_shown_where_the_run_folders_are_gone(explosion, tmp_path):
    figure, caption = drawn(replace(explosion, folder=tmp_path), "S17")
    assert caption.startswith("Slope mean abs of each run, a dot a seed")
    assert [of.get_text() for of in figure.axes[0].get_yticklabels()] == ["none", "bn"]
    of_bn = np.asarray(figure.axes[0].lines[1].get_xdata())
    assert of_bn == pytest.approx([0.0, 0.003])


def test_a_study_without_results_has_no_figure(tmp_path):
    study = made_up_studies.never_run(tmp_path / "never_run")
    assert picture(study, study.study.claims[0]) is None


def test_a_table_that_holds_no_numbers_is_named(explosion, tmp_path):
    (tmp_path / explosion.results[0].run).mkdir()
    table = tmp_path / explosion.results[0].run / "activations.csv"
    table.write_text("step,depth,mean_abs\n0,first,1\n")
    with pytest.raises(UserError, match=r"activations \(.*activations.csv\) must be a table of numbers"):
        picture(replace(explosion, folder=tmp_path), explosion.study.claims[0])


def test_what_is_logged_now_and_then_is_drawn_where_it_was(learning_rate, tmp_path):
    """A row of metrics.csv has a loss or a top-1, and no number of the other."""
    claim = replace(learning_rate.study.claims[0], measure=Measure("val/top1", "metrics"))
    for of in learning_rate.results:
        (tmp_path / of.run).mkdir()
        rows = [(0, 2.0, ""), (9, "", 0.5), (10, 1.0, ""), (19, "", 0.75)]
        made_up_studies.table(tmp_path, of, "metrics", ("train/loss", "val/top1"), rows)
    figure = picture(replace(learning_rate, folder=tmp_path), claim)
    assert figure and figure[1].startswith("Val/top1 of metrics.csv while training.")
    assert ([9, 19], [0.5, 0.75]) in lines(figure[0]().axes[0])


def test_a_table_at_one_learning_rate_is_a_row_an_arm(learning_rate, tmp_path):
    """The claim holds the rate: its other values have no row, but arms that it does not compare have."""
    measure = Measure(table="largest_learning_rate", column="largest_lr")
    cells = {"of": {"norm": "bn", "lr": 1e-4}, "against": {"norm": "none", "lr": 1e-4}}
    claim = replace(learning_rate.study.claims[0], measure=measure, **cells)
    for of in learning_rate.results:
        (tmp_path / of.run).mkdir()
        rate = 1e-3 * 1000 ** (of.norm != "none")
        made_up_studies.table(tmp_path, of, "largest_learning_rate", ("largest_lr",), [(0, rate)])
    found = picture(replace(learning_rate, folder=tmp_path), claim)
    assert found and found[1].startswith("Largest lr of each run")
    (axes,) = found[0]().axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "bn", "gn_ws"]
    assert axes.get_xscale() == "log" and axes.lines[0].get_xdata() == pytest.approx([1e-3] * 3)


def test_an_axis_of_classes_is_told_by_the_arm(tmp_path):
    """One arm with two classes: they have a colour each, and the package's path is no part of the name."""
    norms = made_up_studies.norms(tmp_path / "norms")
    conv = {"bn": "torch.nn.Conv3d", "gn": "videonorm.layers.WSConv3d"}
    runs = [
        replace(run, norm="gn", axes={"model.backbone.init_args.conv": conv[run.norm]})
        for run in norms.results
        if run.norm in conv
    ]
    axes = {"model.backbone.init_args.conv": list(conv.values())}
    study = replace(norms.study, sweep=replace(norms.study.sweep, axes=axes))
    claim = replace(study.claims[0], of={"conv": conv["gn"]}, against={"conv": conv["bn"]})
    found = picture(replace(norms, study=study, results=runs), claim)
    assert found
    (drawn_axes,) = found[0]().axes
    assert [label.get_text() for label in drawn_axes.get_yticklabels()] == ["Conv3d", "WSConv3d"]
    assert len({line.get_color() for line in drawn_axes.lines}) == 2


def test_what_is_not_drawn_takes_no_room(batch_curve):
    figure, _ = drawn(batch_curve, "S1")  # in which no run is without a number
    lay_out(figure)
    (axes,) = figure.axes
    around, inside = axes.get_tightbbox(), [axes.bbox, axes.xaxis.get_tightbbox(), axes.yaxis.get_tightbbox()]
    assert around.x0 == pytest.approx(min(box.x0 for box in inside))
    assert around.y0 == pytest.approx(min(box.y0 for box in inside))

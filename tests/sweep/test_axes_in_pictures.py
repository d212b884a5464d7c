"""Further axes in the tables and the pictures: no line, square or row is of cells of different values."""

import io

import matplotlib
import numpy as np
import pytest
from rich.console import Console

from videonorm.look import arm_colors
from videonorm.sweep import heat_maps, iso_memory, plots
from videonorm.sweep.answer import answer
from videonorm.sweep.cells import cells_of
from videonorm.sweep.curves import TOP1, top1_against
from videonorm.sweep.drawing import BATCH_SIZE, LENGTH, MOST_PANELS, Drawing, chosen, lay_out
from videonorm.sweep.length_matrix import length_matrix
from videonorm.sweep.pictures import pictures
from videonorm.sweep.scores import RunScores, Scores, Views
from videonorm.sweep.tables import as_markdown, as_rich, figures, length_figures, settled

CROP, LR = "data.crop_size", "model.optimizer.init_args.lr"


@pytest.fixture
def crops(result):
    """Two arms at two shapes with the same 32 frames and two crops; the score says which cell it is."""
    return cells_of(
        [
            result(arm, length, 32 // length, score + 0.1 * (crop == "112"), axes={CROP: crop})
            for arm, scores in {"bn": (0.3, 0.2), "gn": (0.4, 0.6)}.items()
            for crop in ("64", "112")
            for length, score in zip((4, 16), scores, strict=True)
        ]
    )


def test_each_value_of_an_axis_has_panels_of_its_own(crops):
    figure = plots.accuracy(crops, LENGTH)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["crop_size 64", "crop_size 112"]
    color = arm_colors(["bn", "gn"])["gn"]
    for axes, scores in zip(figure.axes, ([0.4, 0.6], [0.5, 0.7]), strict=True):
        (line,) = [line for line in axes.lines if line.get_color() == color and len(line.get_xdata()) > 1]
        assert line.get_ydata() == pytest.approx(scores)
    maps = heat_maps.heat_map(crops).axes
    assert [[text.get_text()[:4] for text in axes.texts] for axes in maps] == [
        ["30.0", "20.0"],
        ["40.0", "60.0"],
        ["40.0", "30.0"],
        ["50.0", "70.0"],
    ]


def test_a_row_for_each_value_in_all_tables(crops):
    headings, rows = figures(crops)
    assert headings[:3] == ["T x stride", "B", "crop_size"]
    assert [row[:3] for row in rows[:3]] == [
        ["4 x 1", "8", "64"],
        ["16 x 1", "2", "64"],
        ["4 x 1", "8", "112"],
    ]
    text = as_markdown(crops, answer(crops), {})
    assert "| T x stride | B | crop\\_size |" in text or "| T x stride | B | crop_size |" in text
    assert "| 16 x 1 | 2 | 64 | 20 | 20.0 (" in text and "| 16 x 1 | 2 | 112 | 20 | 30.0 (" in text
    console = Console(width=140, file=io.StringIO())
    console.print(as_rich(crops))
    assert "crop_size" in console.file.getvalue()


def test_what_a_search_found_is_said_once(result):
    cells = cells_of(
        [result("bn", 4, 2, 0.5, axes={LR: "0.002"}), result("gn", 4, 2, 0.5, axes={LR: "0.01"})]
    )
    assert settled(cells) == {"bn": "lr 0.002", "gn": "lr 0.01"}
    assert "lr" not in figures(cells)[0]
    assert "- gn: lr 0.01." in as_markdown(cells, answer(cells), {})


def test_a_learning_rate_by_a_rule_is_a_column(result):
    cells = cells_of([result("gn", 4, size, 0.5, lr=0.001 * size) for size in (2, 4)])
    headings, rows = figures(cells)
    assert [row[headings.index("lr")] for row in rows] == ["0.002", "0.004"] and settled(cells) == {}


@pytest.mark.parametrize(
    "values, at",
    [(("1", "2", "16"), [0, 1, 4]), (("1", "2", "4"), [1, 2, 4]), (("0", "0.5", "8"), [0, 0.5, 8])],
)
def test_one_shape_and_an_axis_of_numbers(result, values, at):
    rows = [result("gn", 4, 2, 0.5, axes={"data.contrast_ratio": value}) for value in values]
    cells = cells_of(rows)
    (axis,) = Drawing(cells).axes()
    (axes,) = plots.accuracy(cells, axis).axes
    assert list(axes.get_xticks()) == at and axes.get_xlabel() == "contrast_ratio"
    assert [label.get_text() for label in axes.get_xticklabels()] == list(values)
    assert "accuracy_against_contrast_ratio" in pictures(cells, {})


def test_a_batch_curve_is_drawn_against_the_logarithm_of_the_batch(result):
    cells = cells_of([result("gn", 8, 2**power, 0.5, clips_seen=64) for power in range(6)])
    assert Drawing(cells).axes() == [BATCH_SIZE]
    (axes,) = plots.accuracy(cells, BATCH_SIZE).axes
    assert list(axes.get_xticks()) == [0, 1, 2, 3, 4, 5]
    assert plots.summary_figure(cells).axes[0].get_title(loc="left") == "Accuracy against batch size, T = 8"


def test_an_axis_that_follows_from_the_shape_splits_nothing(result):
    option = "trainer.accumulate_grad_batches"
    cells = cells_of([result("gn", 4, 8 // n, 0.5, axes={option: str(n)}, clips_seen=8) for n in (1, 2, 4)])
    assert Drawing(cells).splitting == []
    (axes,) = plots.accuracy(cells, BATCH_SIZE).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8\n1", "4\n2", "2\n4"]
    assert axes.get_xlabel() == "B, clips per step; accumulate_grad_batches"


def test_what_a_figure_leaves_out_is_said(result):
    rows = [result("gn", 4, 2, 0.3 + n / 100, axes={CROP: f"c{n}"}) for n in range(20)]
    groups = Drawing(cells_of(rows)).panels(lambda cell: "")
    kept, left_out = chosen(groups)
    assert list(kept) == [f"crop_size c{n}" for n in range(20 - MOST_PANELS, 20)]
    assert left_out == "12 of 20 panels, those with the highest top-1; the table has all cells."
    assert heat_maps.heat_map(cells_of(rows)).get_supxlabel().startswith("12 of 20 combinations")


def test_curves_of_equal_memory_go_through_the_cells_that_measured_it(result):
    rows = [
        result("gn", length, size, 0.5, peak_memory_mib=1024.0 + 64 * length * size)
        for length in (4, 8)
        for size in (2, 4)
    ]
    cells = cells_of(rows)
    assert iso_memory.is_of_memory(cells) and iso_memory.fit_error(cells) == pytest.approx(0, abs=1e-9)
    (axes,) = iso_memory.iso_memory(cells).axes
    names = [text.get_text() for text in axes.texts]
    assert (
        "2" in names
        and names[0].isdigit()
        and sum("GiB" in name for name in names) == 1
        and names.count("50.0") == 4
    )
    products = {
        round(float(x * y)) for line in axes.lines for x, y in line.get_xydata() if len(line.get_xydata()) > 1
    }
    assert 16 in products  # 1 + 16 / 16 GiB
    assert "equal peak memory" in pictures(cells, {})["iso_memory"][1]


def test_without_memory_the_curves_are_of_equal_frames(result):
    cells = cells_of([result("gn", t, b, 0.5, peak_memory_mib=None) for t, b in ((4, 4), (16, 1))])
    (axes,) = iso_memory.iso_memory(cells).axes
    names = [text.get_text() for text in axes.texts]
    assert "16" in names and [name for name in names if "frames" in name] == ["32 frames"]
    assert "not measured on a GPU" in pictures(cells, {})["iso_memory"][1]


@pytest.fixture
def tested(result):
    """A cell of T=4 and one of T=16, tested at both, and at 16 frames a video."""
    rows = [result("gn", 4, 4, 0.5), result("gn", 16, 1, 1.0)]
    videos = {0.0: [0, 0], 0.5: [1, 0], 1.0: [1, 1]}

    def run(*tests):
        views = tuple(Views(length, 1, clips, 1) for length, clips, _ in tests)
        return RunScores(views, np.array([videos[top1] for *_, top1 in tests], np.float32))

    runs = {
        rows[0].run: run((4, 1, 0.5), (16, 1, 0.0), (4, 4, 1.0)),
        rows[1].run: run((16, 1, 1.0), (4, 1, 0.5)),
    }
    cells = cells_of(rows)
    return cells, length_matrix(cells, Scores(np.array(["a", "b"]), np.zeros(2, np.int64), runs))


def test_models_are_tested_at_every_length_and_at_equal_frames(tested):
    cells, matrix = tested
    assert matrix.frames == 16 and matrix.lengths == [(4, 1), (16, 1)]
    assert [of.equal_views for of in matrix.cells] == [
        {(4, 1): 0.5, (16, 1): 0.0},
        {(16, 1): 1.0, (4, 1): 0.5},
    ]
    assert [of.equal_frames for of in matrix.cells] == [1.0, 1.0]
    headings, rows = length_figures(matrix)
    assert headings[3:] == ["T=4 x 1", "T=16 x 1", "16 frames"]
    assert [row[3:] for row in rows] == [["50.0", "0.0", "100.0"], ["50.0", "100.0", "100.0"]]
    assert "| gn | 4 x 1 | 4 | 50.0 | 0.0 | 100.0 |" in as_markdown(cells, answer(cells), {}, matrix)
    assert "at 16 frames" in figures(cells, matrix)[0]
    (axes,) = heat_maps.length_maps(cells, matrix).axes
    assert sorted(text.get_text() for text in axes.texts) == [
        "0.0",
        "100.0",
        "100.0",
        "100.0",
        "50.0",
        "50.0",
    ]
    framed = [patch for patch in axes.patches if patch.get_linewidth() == 2.0]
    assert len(framed) == 2 and matplotlib.colors.to_hex(framed[0].get_edgecolor()) == "#1a1d21"


def test_without_other_lengths_there_is_no_matrix(result):
    cells = cells_of([result("gn", 4, 4, 0.5)])
    scores = RunScores((Views(4, 1, 1, 1),), np.array([[1, 0]], np.float32))
    runs = {cells[0].results[0].run: scores}
    assert length_matrix(cells, Scores(np.array(["a", "b"]), np.zeros(2, np.int64), runs)) is None
    assert length_matrix(cells, Scores(np.array([], np.str_), np.array([], np.int64), {})) is None


def test_a_legend_is_as_wide_as_its_figure(result):
    rows = [result("gn", 8, 2**power, 0.5, clips_seen=64) for power in range(6)]
    steps = np.array([1.0, 10.0])
    curves = {row.run: {TOP1: (steps, np.array([0.2, 0.5]))} for row in rows}
    for phone in (False, True):
        figure = top1_against("seconds", cells_of(rows), curves, phone=phone)
        lay_out(figure)
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()][-1] == "T = 8, B = 32"
        assert legend.get_window_extent().x1 <= figure.bbox.x1
        (axes,) = figure.axes
        assert axes.get_xlabel() == "training time, s" and axes.lines[0].get_xdata().tolist() == [6.0, 60.0]

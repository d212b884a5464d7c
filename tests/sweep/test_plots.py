import itertools
import re
from functools import partial

import matplotlib.colors
import pytest
from matplotlib.text import Text

from videonorm.look import arm_colors
from videonorm.sweep import drawing, heat_maps, plots
from videonorm.sweep.cells import cells_of
from videonorm.sweep.drawing import BATCH_SIZE, LENGTH


@pytest.fixture
def tied(result):
    return cells_of(
        [
            result(norm, length, 64 // length, top1, seed=seed)
            for norm, scores in {"bn": (0.3, 0.2), "gn": (0.4, 0.9)}.items()
            for length, top1 in zip((4, 16), scores, strict=True)
            for seed in (0, 1)
        ]
    )


@pytest.fixture
def grid(result):
    return cells_of(
        [
            result(norm, length, size, 0.5 + length / 100, best_possible_top1=None, num_classes=None)
            for norm in ("bn", "gn")
            for length in (4, 8, 16)
            for size in (2, 4)
        ]
    )


def arm_line(axes, color):
    """Data of the line that goes through an arm's points."""
    lines = [line for line in axes.lines if line.get_color() == color and line.get_linestyle() == "-"]
    return [line.get_xydata() for line in lines if len(line.get_xydata()) > 1][0]


def test_tied_axes_name_both(tied):
    (axes,) = plots.accuracy(tied, LENGTH).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["T=4\nB=16\n160", "T=16\nB=4\n40"]
    assert list(axes.get_xticks()) == [2, 4]  # log2
    (axes,) = plots.accuracy(tied, BATCH_SIZE).axes
    assert [
        label.get_text() for label in sorted(axes.get_xticklabels(), key=lambda t: t.get_position()[0])
    ] == [
        "B=4\nT=16\n40",
        "B=16\nT=4\n160",
    ]
    assert axes.get_xlabel() == "T and B, 64 frames a step; clips seen"


def test_a_line_an_arm_in_its_colour(tied):
    (axes,) = plots.accuracy(tied, LENGTH).axes
    colors = arm_colors(["bn", "gn"])
    assert arm_line(axes, colors["bn"])[:, 1] == pytest.approx([0.3, 0.2])
    assert arm_line(axes, colors["gn"])[:, 1] == pytest.approx([0.4, 0.9])
    names = {text.get_text(): text.get_color() for text in axes.texts}
    assert names["bn"] == colors["bn"] and names["gn"] == colors["gn"]
    assert {"best possible", "chance"} <= names.keys()


def test_a_grid_has_a_panel_a_length_or_batch_size(grid):
    figure = plots.accuracy(grid, LENGTH)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["B = 2", "B = 4"]
    assert not {"best possible", "chance"} & {text.get_text() for axes in figure.axes for text in axes.texts}
    figure = plots.accuracy(grid, BATCH_SIZE)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["T = 4", "T = 8", "T = 16"]


def test_heat_map_has_a_square_a_cell(tied, grid):
    figure = heat_maps.heat_map(tied)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["bn", "gn"]
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [
        ["30.0\n160", "20.0\n40"],
        ["40.0\n160", "90.0\n40"],
    ]
    assert [len(axes.patches) for axes in heat_maps.heat_map(grid).axes] == [6, 6]


def test_speed_and_memory_are_those_of_the_runs(tied):
    speed, memory = plots.speed_and_memory(tied).axes
    color = arm_colors(["bn", "gn"])["gn"]
    assert arm_line(speed, color)[:, 1] == pytest.approx([25.0, 6.25])
    assert arm_line(memory, color)[:, 1] == pytest.approx([504 / 1024, 516 / 1024])


def test_an_svg_takes_the_colour_of_the_page(tied):
    svg = drawing.in_a_page(drawing.as_svg(plots.summary_figure(tied), "summary"), 11.5)
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
    assert "currentColor" in svg and drawing.INK not in svg
    assert "http" not in svg


def test_equal_numbers_of_clips_are_on_no_tick(result):
    rows = [result("gn", length, 4, 0.5) for length in (4, 8)]
    (axes,) = plots.accuracy(cells_of(rows), LENGTH).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8"]
    assert axes.get_xlabel() == "T, frames per clip"


def test_names_stand_beside_the_plot_and_on_no_line(tied):
    figure = plots.accuracy(tied, LENGTH)
    figure.canvas.draw()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert {text.get_text() for text in axes.texts} == {"bn", "gn", "best possible", "chance"}
    assert all(box.x0 >= axes.get_window_extent().x1 for box in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_a_ceiling_below_the_scale_is_named_at_its_edge(result):
    (axes,) = plots.accuracy(cells_of([result("gn", 4, 2, 0.9, best_possible_top1=0.2)]), LENGTH).axes
    heights = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert heights["best possible"] == 0.0 and 0 < heights["gn"] < 1


@pytest.mark.parametrize(
    "draw",
    [
        partial(plots.accuracy, axis=LENGTH),
        partial(plots.accuracy, axis=BATCH_SIZE),
        heat_maps.heat_map,
        plots.speed_and_memory,
    ],
)
def test_a_phone_has_panels_one_above_the_other(draw, tied, grid):
    for cells in (tied, grid):
        figure = draw(cells, phone=True)
        assert figure.get_figwidth() == drawing.PHONE_WIDTH
        assert all(axes.get_subplotspec().colspan == range(0, 1) for axes in figure.axes)
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
        page = 332 / (72 * drawing.PHONE_WIDTH)  # CSS pixels of a unit on a page of 390 px
        assert min(sizes) * page >= 9


def test_a_phone_names_the_lines_in_a_legend(tied):
    figure = plots.accuracy(tied, LENGTH, phone=True)
    assert not figure.axes[0].texts
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["bn", "gn", "best possible", "chance"]


def test_memory_that_was_not_measured_has_no_panel(result):
    cells = cells_of([result("gn", 4, 2, 0.5, peak_memory_mib=None), result("gn", 8, 2, 0.5)])
    (speed,) = plots.speed_and_memory(cells).axes
    assert speed.get_title(loc="left") == "Clips per second"
    assert len(plots.summary_figure(cells).axes) == 2


def test_what_an_svg_refers_to_is_its_own(tied):
    figure = plots.speed_and_memory(tied)
    pages = [drawing.in_a_page(drawing.as_svg(figure, name), 7.4) for name in ("one", "two")]
    ids = [set(re.findall(r'id="([^"]+)"', page)) for page in pages]
    assert ids[0] and not ids[0] & ids[1]


def test_arms_keep_their_colour_where_one_has_failed(result):
    rows = [result("bn", 4, 16, None), result("gn", 4, 16, 0.5), result("gn", 8, 8, 0.6)]
    (axes,) = plots.accuracy(cells_of(rows), LENGTH).axes
    assert len(arm_line(axes, arm_colors(["bn", "gn"])["gn"])) == 2


def test_colours_are_distinct():
    colors = arm_colors([f"norm_{index}" for index in range(6)])
    assert len({matplotlib.colors.to_hex(color) for color in colors.values()}) == 6

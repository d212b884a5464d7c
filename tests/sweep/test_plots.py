import matplotlib.colors
import pytest

from videonorm.sweep import plots
from videonorm.sweep.cells import cells_of
from videonorm.sweep.look import arm_colors


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
    (axes,) = plots.accuracy_against_num_frames(tied).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["T=4\nB=16", "T=16\nB=4"]
    assert list(axes.get_xticks()) == [2, 4]  # log2
    (axes,) = plots.accuracy_against_batch_size(tied).axes
    assert [
        label.get_text() for label in sorted(axes.get_xticklabels(), key=lambda t: t.get_position()[0])
    ] == [
        "B=4\nT=16",
        "B=16\nT=4",
    ]


def test_a_line_an_arm_in_its_colour(tied):
    (axes,) = plots.accuracy_against_num_frames(tied).axes
    colors = arm_colors(["bn", "gn"])
    assert arm_line(axes, colors["bn"])[:, 1] == pytest.approx([0.3, 0.2])
    assert arm_line(axes, colors["gn"])[:, 1] == pytest.approx([0.4, 0.9])
    names = {text.get_text(): text.get_color() for text in axes.texts}
    assert names["bn"] == colors["bn"] and names["gn"] == colors["gn"]
    assert {"best possible", "chance"} <= names.keys()


def test_a_grid_has_a_panel_a_length_or_batch_size(grid):
    figure = plots.accuracy_against_num_frames(grid)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["B = 2", "B = 4"]
    assert not {"best possible", "chance"} & {text.get_text() for axes in figure.axes for text in axes.texts}
    figure = plots.accuracy_against_batch_size(grid)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["T = 4", "T = 8", "T = 16"]


def test_heat_map_has_a_square_a_cell(tied, grid):
    figure = plots.heat_map(tied)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["bn", "gn"]
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [
        ["30.0", "20.0"],
        ["40.0", "90.0"],
    ]
    assert [len(axes.patches) for axes in plots.heat_map(grid).axes] == [6, 6]


def test_speed_and_memory_are_those_of_the_runs(tied):
    speed, memory = plots.speed_and_memory(tied).axes
    color = arm_colors(["bn", "gn"])["gn"]
    assert arm_line(speed, color)[:, 1] == pytest.approx([25.0, 6.25])
    assert arm_line(memory, color)[:, 1] == pytest.approx([504 / 1024, 516 / 1024])


def test_an_svg_takes_the_colour_of_the_page(tied):
    svg = plots.as_svg(plots.summary_figure(tied))
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
    assert "currentColor" in svg and plots.INK not in svg
    assert "http" not in svg


def test_arms_keep_their_colour_where_one_has_failed(result):
    rows = [result("bn", 4, 16, None), result("gn", 4, 16, 0.5), result("gn", 8, 8, 0.6)]
    (axes,) = plots.accuracy_against_num_frames(cells_of(rows)).axes
    assert len(arm_line(axes, arm_colors(["bn", "gn"])["gn"])) == 2


def test_colours_are_distinct():
    colors = arm_colors([f"norm_{index}" for index in range(6)])
    assert len({matplotlib.colors.to_hex(color) for color in colors.values()}) == 6

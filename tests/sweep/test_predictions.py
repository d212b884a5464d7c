"""What `videonorm frontier statistics` expected of batch norm, beside the results of a sweep."""

import pytest

from videonorm.errors import UserError
from videonorm.frontier.plan import write_csv
from videonorm.frontier.statistics import Cell, Layer
from videonorm.sweep import report
from videonorm.sweep.cells import cells_of
from videonorm.sweep.predictions import Prediction, read_predictions
from videonorm.sweep.results import write_results
from videonorm.sweep.shape import Shape
from videonorm.sweep.tables import prediction_figures


def layer(name, shape, of_mean, of_variance, is_short):
    num_frames, frame_stride, batch_size = shape
    return Layer(
        layer=name,
        num_channels=4,
        num_frames=num_frames,
        frame_stride=frame_stride,
        batch_size=batch_size,
        n_eff_mean=of_mean,
        n_eff_variance=of_variance,
        channels_below=0.0,
        is_short=is_short,
        clips=32,
        network="n",
        torch=None,
        commit=None,
    )


def test_the_tables_of_a_folder(tmp_path):
    assert read_predictions(tmp_path) == []
    short, long = (4, 1, 16), (16, None, 2)
    rows = [layer("a", long, 3.0, 2.0, True), layer("b", long, 8.0, 9.0, False)]
    write_csv(Layer, rows, tmp_path / "statistics.csv")
    write_csv(Layer, [layer("a", short, 30.0, 20.0, False)], tmp_path / "statistics_4.csv")
    found = read_predictions(tmp_path)
    assert found == [Prediction(Shape(4, 1, 16), 20.0, 0, 1), Prediction(Shape(16, 0, 2), 5.0, 1, 2)]
    assert [of.verdict for of in found] == ["should work", "will fail"]
    assert Prediction(Shape(4, 1, 1), 1.0, 2, 2).verdict == "refuses"
    write_csv(Layer, rows[:1], tmp_path / "statistics_again.csv")
    with pytest.raises(UserError, match=r"_again.csv\) must tell of other shapes .* 16, B=2 too"):
        read_predictions(tmp_path)


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_a_layer_whose_values_do_not_vary_has_no_part_in_the_median(tmp_path, dead):
    shape, nan = (4, 1, 16), float("nan")
    sizes = [9.0, 30.0, 10.0]
    sizes.insert(dead, nan)
    rows = [layer(str(at), shape, size, size, False) for at, size in enumerate(sizes)]
    write_csv(Layer, rows, tmp_path / "statistics.csv")
    assert read_predictions(tmp_path) == [Prediction(Shape(*shape), Cell(rows).median("n_eff"), 0, 4)]


@pytest.mark.parametrize("text", ["num_frames\n4\n", "\0", "num_frames,frame_stride,batch_size\nx,1,2\n"])
def test_another_table_is_named(tmp_path, text):
    (tmp_path / "statistics.csv").write_text(text + "1\n")
    with pytest.raises(UserError, match=r"statistics \(.*statistics.csv\) must be a table of `videonorm"):
        read_predictions(tmp_path)


def test_beside_what_happened(result):
    cells = cells_of([result("bn", 4, 16, 0.5), result("gn", 4, 16, 0.75), result("gn", 8, 8, 0.5)])
    predictions = [
        Prediction(Shape(4, 1, 16), 20.0, 1, 12),
        Prediction(Shape(8, 1, 8), 3.0, 12, 12),
        Prediction(Shape(8, 1, 1), 1.0, 12, 12),
    ]
    headings, rows = prediction_figures(predictions, cells)
    assert headings == ["T x stride", "B", "n_eff", "short layers", "batch norm", "bn", "gn"]
    assert [row[:5] for row in rows] == [
        ["4 x 1", "16", "20.0", "1 of 12", "should work"],
        ["8 x 1", "8", "3.0", "12 of 12", "will fail"],
    ]
    assert rows[0][5].startswith("50.0 (") and rows[0][6].startswith("75.0 (")
    assert rows[1][5] == "" and rows[1][6].startswith("50.0 (")


def test_in_the_report(tmp_path, result, monkeypatch):
    monkeypatch.setattr(report, "as_png", lambda figure: b"")  # takes half of the time
    write_results(tmp_path / "results.csv", [result("bn", 4, 2, 0.5), result("gn", 4, 2, 0.75)])
    report.write_report(tmp_path)
    assert "What was expected" not in (tmp_path / "report.html").read_text()
    write_csv(Layer, [layer("a", (4, 1, 2), 3.0, 2.0, True)], tmp_path / "statistics.csv")
    report.write_report(tmp_path)
    assert "<td>2.0</td><td>1 of 1</td><td>will fail</td><td>50.0 (" in (
        tmp_path / "report.html"
    ).read_text().replace("\n", "")

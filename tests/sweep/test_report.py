import json
import re

import pytest
from html_page import Page

from videonorm import files
from videonorm.errors import UserError
from videonorm.sweep import report as report_module
from videonorm.sweep.cells import cells_of, has_memory
from videonorm.sweep.pictures import pictures
from videonorm.sweep.report import read_sweep, write_report
from videonorm.sweep.results import COLUMNS, read_results, write_results


@pytest.fixture(scope="module")
def report(tmp_path_factory, result):
    """A folder with the report of nine runs, one of them failed, and the answer it gives."""
    folder = tmp_path_factory.mktemp("report")
    rows = [
        result(norm, length, 64 // length, top1 + 0.01 * seed, seed=seed)
        for norm, (short, long) in {"bn": (0.2, 0.1), "gn": (0.2, 0.9)}.items()
        for length, top1 in ((4, short), (32, long))
        for seed in (0, 1)
    ]
    rows.append(result("gn", 16, 4, None, error='<script>alert("no")</script>'))
    write_results(folder / "results.csv", rows)
    about = {
        "name": "tiny",
        "num_runs": 10,
        "sweep": "name: tiny  # <b>bold</b>\n",
        "origins": [
            {
                "machine": {"device": "H100 & co", "memory": 81559.25},
                "versions": {"torch": "2"},
                "commit": "abc",
            }
        ],
    }
    (folder / "sweep.json").write_text(json.dumps(about))
    return folder, write_report(folder)


def test_the_report_needs_no_other_file(report):
    folder, _ = report
    html = (folder / "report.html").read_text()
    page = Page(html)
    assert page.elements.count("svg") == 2 * 5
    assert "http" not in html and "url(http" not in html and "@import" not in html
    assert not {"script", "link", "iframe", "img"} & set(page.elements)
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith("#")


def test_the_report_opens_with_the_answer(report):
    folder, found = report
    page = Page((folder / "report.html").read_text())
    assert page.text["h1"] == found.headline.replace("top-1", "top\u20111")
    assert found.headline == (
        "gn at T=32, B=2 is best with 90.5\u00a0% top-1, having seen 20 clips; the others saw 20 to 160."
    )
    assert "64 frames a step, on H100 & co" in page.text["li"]
    for sentence in found.details:
        assert sentence in page.text["li"]


def test_the_report_holds_every_run_and_every_definition(report):
    folder, _ = report
    html = (folder / "report.html").read_text()
    page = Page(html)
    assert len(re.findall(r"<td>(?:bn|gn)_\d+x1_b\d+_s\d</td>", html)) == 9
    assert "&lt;script&gt;alert(&#34;no&#34;)&lt;/script&gt;" in html and "<script>" not in html
    assert page.text["pre"] == "name: tiny  # <b>bold</b>\n"
    for column, of in COLUMNS.items():
        assert column in page.text["dt"] and of.metadata["description"] in page.text["dd"]
    for value in ("H100 & co", "81559.2", "abc", "8 of 10"):
        assert value in page.text["dd"]


def test_what_users_write_is_no_markup(tmp_path, result, monkeypatch):
    monkeypatch.setattr(report_module, "as_png", lambda figure: b"")  # takes half of the time
    arm = r"<u>&$\frac$"
    write_results(tmp_path / "results.csv", [result(arm, 4, 2, 0.5), result(arm, 8, 1, None, error="<u>")])
    (tmp_path / "sweep.json").write_text(
        json.dumps({"name": "<u>", "origins": [{"machine": {"device": "<u>"}}]})
    )
    write_report(tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "<u>" not in html and html.count("&lt;u&gt;&amp;") > 5
    page = Page(html)
    assert page.text["h1"].startswith(f"{arm} at T=4, B=2 reaches 50.0\u00a0%")
    assert "8 frames a step, on <u>" in page.text["li"]


def test_captions_say_what_is_true(result):
    def captions(rows):
        return " ".join(caption for _, caption in pictures(cells_of(rows), {}).values())

    one_seed = [
        result("gn", 4, 2, 0.5, best_possible_top1=None),
        result("gn", 8, 2, 0.5, best_possible_top1=None),
    ]
    text = captions(one_seed)
    assert not any(word in text for word in ("seed", "dashed", "failed", "training clips."))
    assert "were not run." in text and "GPU memory" in text
    more = captions(
        [*one_seed, result("gn", 4, 2, 0.6, seed=1), result("bn", 4, 2, None), result("bn", 4, 4, 0.2)]
    )
    for words in (
        "small dots single seeds",
        "Above the dashed line",
        "or have failed",
        "saw 20 to 40 training clips.",
    ):
        assert words in more
    assert "memory" not in captions([result("gn", 4, 2, 0.5, peak_memory_mib=None)])


def test_the_page_has_a_set_of_figures_and_a_cue_for_a_phone(report):
    folder, _ = report
    html = (folder / "report.html").read_text()
    assert html.count('class="on-wide"') == 5 and html.count('class="on-phone"') == 5 + 1
    assert "swipe" in html and "@media (max-width: 40rem)" in html
    assert len(re.findall(r'<div class="scroll"><table>', html)) == html.count("<table>") == 2


def test_curves_are_drawn_and_the_memory_of_a_cpu_is_not(tmp_path, result, monkeypatch):
    monkeypatch.setattr(report_module, "as_png", lambda figure: b"")  # takes half of the time
    row = result("gn", 4, 2, 0.5)
    write_results(tmp_path / "results.csv", [row])
    origin = {"machine": {"device": "cpu", "cores": 2}}
    files.write_json(tmp_path / "sweep.json", {"name": "tiny", "origins": [origin]})
    metrics = "step,epoch,train/loss,val/top1\n0,0,2.0,0.1\n9,0,1.0,0.5\n"
    files.write(tmp_path / row.run / "metrics.csv", metrics)
    assert not has_memory(read_sweep(tmp_path).cells)
    write_report(tmp_path)

    assert {path.stem for path in (tmp_path / "plots").iterdir()} >= {"training_loss", "validation_top1"}
    html = (tmp_path / "report.html").read_text()
    page = Page(html)
    assert page.elements.count("svg") == 2 * 5
    assert "Loss of the training batches, averaged over a twentieth of the run." in page.text["figcaption"]
    assert "peak" not in html and "Peak" not in html and "MiB" not in html
    # Chance is 1/8: nine tenths of the way to 0.5 are reached with the last of 10 steps.
    assert "What 46.2&nbsp;% cost" in html
    spent = ["1 of 1", "10", "2.5", "20", "80", "60"]  # runs there, steps, epochs, clips, frames, seconds
    assert "".join(spent) in page.text["td"]
    assert read_results(tmp_path / "results.csv") == [row]  # the table keeps it


def test_the_pictures_are_written(report):
    folder, _ = report
    names = {str(path.relative_to(folder)) for path in folder.rglob("*.png")}
    assert names == {
        "summary.png",
        "plots/accuracy_against_batch_size.png",
        "plots/accuracy_against_num_frames.png",
        "plots/heat_map.png",
        "plots/iso_memory.png",
        "plots/speed_and_memory.png",
    }
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_a_sweep_of_failures_has_a_report_too(tmp_path, result):
    write_results(tmp_path / "results.csv", [result("bn", 8, 1, None, error="too few clips")])
    found = write_report(tmp_path)
    assert found.headline == "No run has a result: 1 failed."
    page = Page((tmp_path / "report.html").read_text())
    assert "too few clips" in page.text["li"]
    assert not list(tmp_path.rglob("*.png"))


def test_a_folder_without_results_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"results \(.*results.csv\) must be a readable file"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())

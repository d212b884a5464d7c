import json
import re
from html.parser import HTMLParser

import pytest

from videonorm.errors import UserError
from videonorm.sweep.report import write_report
from videonorm.sweep.results import COLUMNS, write_results

VOID = {"meta", "br", "link", "img"}  # HTML elements that are never closed


class Page(HTMLParser):
    """Checks that every element is closed in order, and collects elements and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[str] = []
        self.text: dict[str, str] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data


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
    assert page.elements.count("svg") == 2 * 4
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


def test_what_users_write_is_no_markup(tmp_path, result):
    write_results(
        tmp_path / "results.csv", [result("<u>&", 4, 2, 0.5), result("<u>&", 8, 1, None, error="<u>")]
    )
    (tmp_path / "sweep.json").write_text(
        json.dumps({"name": "<u>", "origins": [{"machine": {"device": "<u>"}}]})
    )
    write_report(tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "<u>" not in html and html.count("&lt;u&gt;&amp;") > 5
    page = Page(html)
    assert page.text["h1"].startswith("<u>& at T=4, B=2 reaches 50.0\u00a0%")
    assert "8 frames a step, on <u>" in page.text["li"]


def test_the_pictures_are_written(report):
    folder, _ = report
    names = {str(path.relative_to(folder)) for path in folder.rglob("*.png")}
    assert names == {
        "summary.png",
        "plots/accuracy_against_batch_size.png",
        "plots/accuracy_against_num_frames.png",
        "plots/heat_map.png",
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

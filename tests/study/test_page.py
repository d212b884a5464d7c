"""The page over all studies, and the picture and the table beside it."""

import re
from dataclasses import replace

import made_up_studies
import pytest
from html_page import Page

from videonorm.study import page as page_module
from videonorm.study.forest import place, summary_figure
from videonorm.study.judgement import as_markdown, headline, judged, numbers
from videonorm.study.page import write_page
from videonorm.sweep import drawing


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """One that is not over, with a run that has failed, and one that was never run."""
    folder = tmp_path_factory.mktemp("studies")
    norms = made_up_studies.norms(folder / "norms", num_runs=20)
    first, *others = norms.results
    failed = replace(first, status="failed", val_top1=None, error="<script>out of memory</script>")
    return [replace(norms, results=[failed, *others]), made_up_studies.never_run(folder / "never_run")]


@pytest.fixture(scope="module")
def html(studies, tmp_path_factory):
    output = tmp_path_factory.mktemp("page") / "study.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "as_png", lambda figure: b"png")  # takes half of the time
        write_page(studies, output)
    return output


def test_the_page_needs_no_other_file(html):
    page = Page(html.read_text())
    assert page.elements.count("svg") == 2  # one figure, for a wide page and for a phone
    assert not {"script", "link", "iframe", "img"} & set(page.elements)
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:image/png;base64,"))
    targets = {value for name, value in page.attributes if name == "id"}
    links = {value[1:] for name, value in page.attributes if name == "href"}
    assert links and links <= targets
    text = html.read_text()
    assert "http" not in text and "prefers-color-scheme: dark" in text and "max-width: 40rem" in text


def test_a_row_has_verdict_effect_source_and_cost(html):
    page = Page(html.read_text())
    assert page.text["h1"] == "2 claims: 1 refuted, 1 not run."
    row = html.read_text().split('<details class="claim">')[1].split("</summary>")[0]
    words = " ".join(re.sub(r"<[^>]+>", " ", row).split())
    assert words == (
        "S5 LN is below BN. its source 3.5 at layer 110 Bjorck et al., arXiv:1806.02375, figure 2 "
        "here +12.0 (+8.1 to +15.9) points refuted, so far cost 2 seeds 16 runs, 16 min, 400 videos"
    )
    assert 'class="band" style="left:0.0%;width:50.0%"' in row  # the claim is that it is lower
    assert 'class="word fails"' in row


def test_a_row_opens_to_what_decides_it_and_what_each_run_came_to(html):
    page = Page(html.read_text())
    for words in ("difference of val_top1", "norm ln", "norm bn", "lower", "1 points"):
        assert words in page.text["dd"]
    assert "0.58" in page.text["td"] and "0.605" in page.text["td"]  # of ln
    assert "Validation top-1 of each run, a dot a seed" in page.text["figcaption"]
    assert "name: norms" in page.text["pre"]


def test_what_has_failed_or_was_not_run_is_said(html):
    text = html.read_text()
    page = Page(text)
    assert "15 of 20 runs done, 1 failed, 4 not begun." in " ".join(page.text["p"].split())
    assert "The study is not over: its verdicts are those of the runs so far." in text
    assert "&lt;script&gt;out of memory&lt;/script&gt;" in text and "<script>" not in text
    assert "It was not run." in text and "No run has anything to draw." in text
    assert ">not run</span>" in text and "no effect yet" in text


def test_the_map_of_a_page_is_inside_it(explosion, tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "as_png", lambda figure: b"png")
    alone = replace(explosion.study, claims=explosion.study.claims[:1])
    two = [run for run in explosion.results if run.norm in ("none", "bn")]  # a map takes its time
    study = replace(explosion, study=alone, results=two, verdicts=explosion.verdicts[:1])
    write_page([study], tmp_path / "study.html")
    page = Page((tmp_path / "study.html").read_text())
    images = [value for name, value in page.attributes if name == "xlink:href" and value.startswith("data:")]
    assert len(images) >= 4 and "mathdefault" not in page.text["text"]
    assert "2 of 8 runs done, 2 diverged, 4 not begun." in " ".join(page.text["p"].split())


def test_no_study_is_a_page_too(tmp_path):
    write_page([], tmp_path / "study.html")
    assert Page((tmp_path / "study.html").read_text()).text["h1"] == "No claim."
    assert {path.name for path in tmp_path.iterdir()} == {"study.html", "verdicts.md"}


def test_the_summary_has_a_row_a_claim_turned_to_what_is_claimed(studies, html):
    figure = summary_figure(judged(studies))
    drawing.lay_out(figure)
    axes, told = figure.axes
    claims = [label.get_text() for label in axes.get_yticklabels()]
    assert claims == ["LN is below BN.  S5", "Frozen BN is the better one for single clips.  S11"]
    verdicts = [label.get_text() for label in told.get_yticklabels()]
    assert verdicts == ["refuted  +12.0 (+8.1 to +15.9) points", "not run"]
    dot = next(line for line in axes.lines if line.get_marker() == "o")
    assert dot.get_xdata()[0] < 0  # higher, where lower is claimed
    assert (html.parent / "verdicts.svg").read_text().startswith("<?xml") and (
        html.parent / "verdicts.png"
    ).read_bytes() == b"png"


def test_the_place_of_an_interval(explosion, learning_rate):
    explosion = judged([explosion])
    higher = place(explosion[0].verdict, explosion[0].claim)
    assert higher and higher.claimed == (0, 1) and higher.high == pytest.approx(1 / 1.15)
    alike = place(explosion[1].verdict, explosion[1].claim)
    assert alike and alike.claimed == (-alike.margin, alike.margin)
    lower, turned = (place(explosion[2].verdict, explosion[2].claim, towards=way) for way in (False, True))
    assert lower and turned and lower.claimed == (-1, 0) and turned.claimed == (0, 1)
    assert (turned.low, turned.value) == (-lower.high, -lower.value)
    of_rates = judged([learning_rate])
    ratio = place(of_rates[0].verdict, of_rates[0].claim)  # 33.3, 10 and more
    assert ratio and ratio.open_high and ratio.high == 1 and not ratio.open_low
    assert ratio.low / ratio.value == pytest.approx(1 / 1.522, rel=1e-3)  # as logarithms
    assert place(replace(of_rates[0].verdict, low=None, high=None), of_rates[0].claim) is None


def test_verdicts_in_words(learning_rate, tmp_path):
    studies = [learning_rate, made_up_studies.batch_curve(tmp_path / "batch_curve")]
    verdicts = [of.verdict for of in judged(studies)]
    assert headline(verdicts) == (
        "6 claims: 3 supported, 1 equivalent as claimed, 1 equivalent where a difference is claimed, "
        "1 not decided."
    )
    assert numbers(verdicts[0]) == "33.3 (10 to +∞) x"
    assert numbers(verdicts[1]) == "+0.5 (−1.4 to +2.4) points"
    failed = replace(verdicts[2], effect=None, low=None, high=None)
    assert headline([failed]) == "1 claim: 1 without a result."


def test_the_table_for_a_readme(learning_rate):
    verdicts = [of.verdict for of in judged([learning_rate])]
    odd = replace(verdicts[0], sentence="A | B\nis *better*")
    lines = as_markdown([odd, *verdicts[1:]]).splitlines()
    assert lines[0] == "**3 claims: 1 supported, 1 equivalent as claimed, 1 not decided.**"
    assert lines[2].startswith("|  | claim | its source | here (95\u00a0% interval) | verdict |")
    assert lines[3] == "|---|---|---|---|---|--:|--:|--:|"
    assert lines[4].startswith(r"| S15 | A \| B is \*better\* | Bjorck et al.")
    assert lines[4].endswith("| 33.3 (10 to +∞) x | **supported** | 3 | 45 | 45 |")
    assert "**not decided**: at least about 4 more seeds would be needed" in lines[6]

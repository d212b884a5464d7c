"""The report of a sweep: one HTML page that needs no other file, drawn from results.csv and sweep.json."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from videonorm.sweep import plots
from videonorm.sweep.answer import Answer, answer
from videonorm.sweep.colors import norm_colors
from videonorm.sweep.markdown import as_markdown
from videonorm.sweep.records import read_json
from videonorm.sweep.results import COLUMNS, Result, Summary, read_results, summarize, write_file

FIGURES = {
    "accuracy_against_num_frames": (
        plots.accuracy_against_num_frames,
        "Top-1 on the validation videos against the clip length T. Bars are 95 % intervals, small dots "
        "single seeds. Above the dashed line no model can come with clips that short.",
    ),
    "accuracy_against_batch_size": (
        plots.accuracy_against_batch_size,
        "The same top-1 against the batch size B, the clips that BatchNorm averages over.",
    ),
    "heat_map": (plots.heat_map, "Top-1 in percent for each T and B. Squares without a number were not run."),
    "speed_and_memory": (
        plots.speed_and_memory,
        "Training clips per second, on a logarithmic scale, and the most memory that a run took.",
    ),
}
NUMBERS = {
    "val_top1": ".4f",
    "val_top5": ".4f",
    "val_loss": ".3f",
    "best_possible_top1": ".4f",
    "train_seconds": ".1f",
    "clips_per_second": ".1f",
    "peak_memory_mib": ",.0f",
    "lr": ".4g",
}


def write_report(output: Path) -> Answer:
    """Write plots/, summary.png, results.md and report.html from a sweep's results; return what they say.

    Raises:
        UserError: the folder has no results.csv.
    """
    results = read_results(output / "results.csv")
    about = read_json(output / "sweep.json")
    summaries = summarize(results)
    found = answer(summaries, _device(about))
    pictures = {}
    if any(summary.done for summary in summaries):
        (output / "plots").mkdir(exist_ok=True)
        for name, (draw, _) in FIGURES.items():
            figure = draw(summaries)
            pictures[name] = plots.as_svg(figure)
            write_file(output / "plots" / f"{name}.png", plots.as_png(figure))
        write_file(output / "summary.png", plots.as_png(plots.summary_figure(summaries)))
    write_file(output / "results.md", as_markdown(summaries, found, about))
    write_file(output / "report.html", page(results, summaries, about, found, pictures))
    return found


def page(
    results: Sequence[Result],
    summaries: Sequence[Summary],
    about: dict[str, Any],
    found: Answer,
    pictures: dict[str, str],
) -> str:
    """The HTML.

    Args:
        results, summaries: the rows, and their seeds taken together.
        about: contents of sweep.json.
        found: what opens the page.
        pictures: figure name -> <svg> element.
    """
    name = escape(str(about.get("name", "sweep")))
    figures = "".join(
        f"<figure>{svg}<figcaption>{escape(FIGURES[figure][1])}</figcaption></figure>"
        for figure, svg in pictures.items()
    )
    details = "".join(f"<li>{escape(sentence)}</li>" for sentence in found.details)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name} · videonorm sweep</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<p class="kicker">videonorm sweep · {name}</p>
<h1>{escape(found.headline)}</h1>
<ul class="details">{details}</ul>
{_facts(results, about)}
</header>
<section>{figures}</section>
<section>
<h2>Norms, lengths and batch sizes</h2>
<p>Seeds taken together. The interval counts that top-1 is measured on so many videos (Wilson) and, from two
seeds on, that another seed gives another model (Student's t with Satterthwaite's degrees of freedom); the two
add as squares.</p>
{_summary_table(summaries)}
</section>
<section>
<h2>Every run</h2>
{_failures(results)}
{_runs_table(results)}
<details><summary>What each column means</summary><dl>{_definitions()}</dl></details>
</section>
<section>
<h2>Where it ran</h2>
{_origins(about)}
</section>
<section>
<h2>The sweep file</h2>
<pre>{escape(str(about.get("sweep", "")))}</pre>
</section>
</main>
</body>
</html>
"""


def _device(about: dict[str, Any]) -> str | None:
    """What the runs were computed on, if all on the same."""
    machines = [origin.get("machine") or {} for origin in about.get("origins", [])]
    names = {
        f"{machine.get('cores')} CPU cores" if machine.get("device") == "cpu" else machine.get("device")
        for machine in machines
    }
    return names.pop() if len(names) == 1 else None


def _facts(results: Sequence[Result], about: dict[str, Any]) -> str:
    done = [result for result in results if result.done]
    failed = len(results) - len(done)
    planned = about.get("num_cells", len(results))
    hours, rest = divmod(round(sum(result.train_seconds or 0.0 for result in results)), 3600)
    facts = {
        "runs done": f"{len(done)} of {planned}",
        "failed": str(failed),
        "seeds": str(len({result.seed for result in results})),
        "training time, all runs": f"{hours} h {rest // 60} min"
        if hours
        else f"{rest // 60} min {rest % 60} s",
    }
    if device := _device(about):
        facts["on"] = device
    items = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items()
    )
    return f'<dl class="facts">{items}</dl>'


def _summary_table(summaries: Sequence[Summary]) -> str:
    colors = norm_colors(summary.norm for summary in summaries)
    best = max((s for s in summaries if s.done), key=lambda s: s.top1.value, default=None)
    rows = []
    for summary in summaries:
        norm = f'<i style="background:{colors[summary.norm]}"></i>{escape(summary.norm)}'
        cells = [f"{summary.num_frames} x {summary.frame_stride}", str(summary.batch_size)]
        if summary.done:
            top1 = summary.top1
            bar = (
                f'<span class="bar" style="color:{colors[summary.norm]}">'
                f'<b style="width:{100 * top1.value:.1f}%"></b>'
                f'<s style="left:{100 * top1.low:.1f}%;width:{100 * (top1.high - top1.low):.1f}%"></s></span>'
            )
            cells += [f"{100 * top1.value:.1f} %", bar, f"{100 * top1.low:.1f} to {100 * top1.high:.1f}"]
            cells += [f"{summary.clips_per_second:.1f}", f"{summary.peak_memory_mib:,.0f}"]
        else:
            cells += ["failed", "", "", "", ""]
        cells.append(f"{len(summary.done)} of {len(summary.results)}")
        kind = ' class="best"' if summary is best else "" if summary.done else ' class="failed"'
        rows.append(f"<tr{kind}><th>{norm}</th>{_cells(cells)}</tr>")
    head = ["norm", "T x stride", "B", "top-1", "", "95 % interval", "clips/s", "peak MiB", "seeds done"]
    return _table(head, rows)


def _failures(results: Iterable[Result]) -> str:
    failed = [result for result in results if not result.done]
    items = "".join(f"<li><b>{escape(r.run)}</b> failed: {escape(r.error or '')}</li>" for r in failed)
    return f'<ul class="failures">{items}</ul>' if failed else ""


def _runs_table(results: Iterable[Result]) -> str:
    rows = []
    for result in results:
        values = asdict(result)
        cells = []
        for column in COLUMNS:
            value = values[column]
            cells.append("" if value is None else escape(format(value, NUMBERS.get(column, ""))))
        kind = "" if result.done else ' class="failed"'
        rows.append(f"<tr{kind}>{_cells(cells)}</tr>")
    return _table(list(COLUMNS), rows)


def _table(head: Sequence[str], rows: Iterable[str]) -> str:
    headings = "".join(f'<th title="{escape(COLUMNS.get(text, ""))}">{escape(text)}</th>' for text in head)
    body = "".join(rows)
    return f'<div class="wide"><table><thead><tr>{headings}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _cells(cells: Iterable[str]) -> str:
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _definitions() -> str:
    return "".join(f"<dt>{escape(column)}</dt><dd>{escape(text)}</dd>" for column, text in COLUMNS.items())


def _origins(about: dict[str, Any]) -> str:
    """Machine, versions and commit, once for each combination that the runs had."""
    tables = []
    for origin in about.get("origins", []):
        pairs = {
            **(origin.get("machine") or {}),
            **(origin.get("versions") or {}),
            "commit": origin.get("commit"),
        }
        items = "".join(
            f"<dt>{escape(key)}</dt><dd>{escape(_number(value))}</dd>"
            for key, value in pairs.items()
            if value is not None
        )
        tables.append(f'<dl class="origin">{items}</dl>')
    return "".join(tables) or "<p>No run has recorded it.</p>"


STYLE = """
:root { color-scheme: light dark; --ink: #1a1d21; --muted: #666d75; --paper: #fdfdfc; --card: #fff;
  --line: #e3e5e8; --mark: #fff6d6; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --muted: #9aa1a9; --paper: #16181b;
  --card: #1e2125; --line: #33383e; --mark: #3a3418; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
.kicker { margin: 0; color: var(--muted); font-size: .9rem; letter-spacing: .02em; }
h1 { margin: .4rem 0 1.2rem; font-size: 1.6rem; line-height: 1.35; font-weight: 650; max-width: 56rem;
  text-wrap: pretty; }
h2 { margin: 3rem 0 .6rem; font-size: 1.15rem; }
p { max-width: 46rem; }
.details { padding-left: 1.2rem; max-width: 54rem; }
.details li { margin: .25rem 0; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem 2.4rem; margin: 1.8rem 0 0; padding: 1rem 0;
  border-block: 1px solid var(--line); }
.facts dt { color: var(--muted); font-size: .8rem; }
.facts dd { margin: 0; font-size: 1.1rem; font-weight: 600; }
figure { margin: 2rem 0; padding: 1.4rem 1.4rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
figure svg { display: block; width: 100%; height: auto; max-height: 34rem; }
figcaption { margin-top: .8rem; color: var(--muted); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: .2rem; position: sticky; left: 0;
  background: var(--paper); }
tr.best th:first-child { background: var(--mark); }
thead th { color: var(--muted); font-weight: 500; }
tbody th { font-weight: 600; }
tr.best { background: var(--mark); }
.failures { padding-left: 1.2rem; overflow-wrap: anywhere; }
.failures li, tr.failed td { color: var(--bad); }
th i { display: inline-block; width: .7em; height: .7em; margin: 0 .55em 0 .1em; border-radius: 50%; }
.bar { position: relative; display: block; width: 9rem; height: .8rem; background: var(--line);
  border-radius: 2px; }
.bar b, .bar s { position: absolute; left: 0; top: 0; height: 100%; border-radius: 2px; }
.bar b { background: currentColor; }
.bar s { top: 35%; height: 30%; background: var(--ink); opacity: .65; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--muted); }
dl:not(.facts) { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.4rem;
  font-size: .88rem; }
dl:not(.facts) dt { font-family: ui-monospace, Menlo, Consolas, monospace; color: var(--muted); }
dl:not(.facts) dd { margin: 0; }
pre { padding: 1rem 1.2rem; overflow-x: auto; background: var(--card);
  border: 1px solid var(--line);
  border-radius: 8px; font: .85rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
"""

"""What a study shows: a table of studies, and one of verdicts."""

from collections.abc import Iterable, Iterator, Sequence

from rich.table import Table
from rich.text import Text

from videonorm.look import CI
from videonorm.messages import counted
from videonorm.study.arm_table import arm_table
from videonorm.study.judgement import numbers, word
from videonorm.study.result import StudyResult
from videonorm.study.study_file import StudyFile
from videonorm.study.verdicts import Verdict
from videonorm.sweep.plan import Plan

STYLES = {"supported": "green", "refuted": "red", "equivalent": "cyan", "not decided": "yellow"}


def study_table(studies: Iterable[tuple[StudyFile, Plan, Plan]]) -> Table:
    """Studies, each with its plan and its quick one."""
    table = Table(header_style="bold", border_style="dim")
    for heading in ("study", "claims", "arms", "cost", "--quick"):
        table.add_column(heading)
    for study, plan, quick in studies:
        claims = ", ".join(claim.id for claim in study.claims)
        table.add_row(study.name, claims, ", ".join(study.sweep.norms), _cost(plan), _cost(quick))
    return table


def _cost(plan: Plan) -> str:
    """What all of its trainings are, searches and pretrainings with them."""
    runs = [run for of in (plan.search, plan.pretrain, plan) if of for run in of.runs]
    count = counted(len(runs), "run")
    if any(run.steps is None for run in runs):
        return count
    return f"{count}, {_rounded(sum(run.frames_per_step * (run.steps or 0) for run in runs))} frames"


def _rounded(count: int) -> str:
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {letter}"
    return str(count)


def arm_tables(study: StudyResult) -> Iterator[Table]:
    """One for each measure of the study's claims."""
    claims = {claim.measure.in_words: claim for claim in reversed(study.study.claims)}
    for measure, claim in reversed(claims.items()):
        headings, rows = arm_table(study, claim)
        table = Table(title=measure, title_justify="left", header_style="bold", border_style="dim")
        for number, heading in enumerate(headings):
            table.add_column(heading, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        yield table


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(header_style="bold", border_style="dim")
    several = len({of.study for of in verdicts}) > 1
    for heading in (*(("study",) if several else ()), "claim", "verdict", f"effect ({CI})"):
        table.add_column(heading)
    table.add_column("sentence", ratio=1)
    for of in verdicts:
        sentence = Text(of.sentence)
        if of.needs:
            sentence.append(f" Needs: {of.needs}.", "dim")
        study = (of.study,) if several else ()
        table.add_row(*study, of.claim, Text(word(of), STYLES[of.verdict]), numbers(of), sentence)
    return table

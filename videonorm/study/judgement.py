"""What a verdict says to people: in a word, in numbers, and of many in a sentence."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from videonorm.messages import counted
from videonorm.study.result import StudyResult
from videonorm.study.study_file import Claim
from videonorm.study.verdicts import Verdict
from videonorm.sweep import markdown
from videonorm.sweep.markdown import plain

Kind = Literal["holds", "fails", "alike", "open", "absent"]

COLORS: dict[Kind, tuple[str, str]] = {  # on a light page and on a dark one
    "holds": ("#00734f", "#4cc794"),
    "fails": ("#b3261e", "#ff8a80"),
    "alike": ("#8a5a00", "#e3b341"),
    "open": ("#4d5b78", "#9fb2d8"),
    "absent": ("#666d75", "#9aa1a9"),
}


def kind(verdict: Verdict) -> Kind:
    """Whether a claim holds, fails, claims a difference that is none, is open, or has no effect at all."""
    if verdict.effect is None and verdict.low is None:
        return "absent"
    if verdict.verdict == "equivalent":
        return "holds" if verdict.statistic == "equivalence" else "alike"
    return {"supported": "holds", "refuted": "fails", "not decided": "open"}[verdict.verdict]  # type: ignore[return-value]


def word(verdict: Verdict) -> str:
    """The verdict; of a claim without any effect, why."""
    if kind(verdict) != "absent":
        return verdict.verdict
    return "no result" if verdict.runs else "not run"


def numbers(verdict: Verdict) -> str:
    """The effect with its interval and unit, such as "−6.7 (−9.1 to −4.2) points"; empty without one."""
    return f"{found} {verdict.unit}" if (found := effect(verdict)) else ""


def effect(verdict: Verdict) -> str:
    """The same without the unit."""
    if verdict.low is None or verdict.high is None:
        return ""
    value = "" if verdict.effect is None else _number(verdict.effect, verdict)
    low, high = _number(verdict.low, verdict), _number(verdict.high, verdict)
    return f"{value} ({low} to {high})".strip()


def _number(value: float, verdict: Verdict) -> str:
    if math.isinf(value):
        text = "+∞" if value > 0 else "-∞"
    elif verdict.is_ratio:
        return f"{value:.3g}"
    else:
        text = f"{value:+.1f}" if verdict.unit.startswith("points") else f"{value:+.3g}"
    return text.replace("-", "\u2212", 1) if text.startswith("-") else text


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict."""

    study: StudyResult
    claim: Claim
    verdict: Verdict

    @property
    def kind(self) -> Kind:
        return kind(self.verdict)

    @property
    def word(self) -> str:
        return word(self.verdict)

    @property
    def numbers(self) -> str:
        return numbers(self.verdict)

    @property
    def effect(self) -> str:
        return effect(self.verdict)

    @property
    def color(self) -> str:
        return COLORS[self.kind][0]


def judged(studies: Iterable[StudyResult]) -> list[Judged]:
    """The claims of all studies, in their order."""
    return [
        Judged(study, claim, verdict)
        for study in studies
        for claim, verdict in zip(study.study.claims, study.verdicts, strict=True)
    ]


GROUPS: dict[tuple[Kind, str], str] = {  # in the order of a sentence
    ("holds", "supported"): "supported",
    ("holds", "equivalent"): "equivalent as claimed",
    ("fails", "refuted"): "refuted",
    ("alike", "equivalent"): "equivalent where a difference is claimed",
    ("open", "not decided"): "not decided",
    ("absent", "no result"): "without a result",
    ("absent", "not run"): "not run",
}


def grouped(verdicts: Iterable[Verdict]) -> dict[tuple[Kind, str], list[Verdict]]:
    """The verdicts by what has become of their claims, in the words of ``GROUPS``."""
    found: dict[tuple[Kind, str], list[Verdict]] = {key: [] for key in GROUPS}
    for verdict in verdicts:
        found[kind(verdict), word(verdict)].append(verdict)
    return {(of, GROUPS[of, told]): group for (of, told), group in found.items() if group}


def headline(verdicts: Sequence[Verdict]) -> str:
    """Such as "Of 12 claims, 7 supported, 2 refuted, 3 not decided."."""
    if not verdicts:
        return "No claim."
    counts = ", ".join(f"{len(found)} {group}" for (_, group), found in grouped(verdicts).items())
    return f"{counted(len(verdicts), 'claim')}: {counts}."


def as_markdown(verdicts: Sequence[Verdict]) -> str:
    """The sentence, and a row of each claim: what its source says, what was found here, verdict and cost."""
    repeated = {claim for claim, count in Counter(of.claim for of in verdicts).items() if count > 1}
    rows = [["", "claim", "its source", "here (95\u00a0% interval)", "verdict", "seeds", "runs", "core min"]]
    for of in verdicts:
        name = f"{of.study} {of.claim}" if of.claim in repeated else of.claim
        found = f"**{word(of)}**" + (f": {plain(of.needs)}" if of.needs else "")
        said = f"{plain(of.source)}: {plain(of.reported)}"
        row = [plain(name), plain(of.sentence), said, plain(numbers(of)), found]
        rows.append([*row, str(of.seeds), str(of.runs), f"{of.core_minutes:,.0f}"])
    made = [f"Made on {plain(of)}." for of in dict.fromkeys(of.made_on for of in verdicts) if of]
    return "\n".join([f"**{headline(verdicts)}**", "", *markdown.table(rows, left=5), "", *made, ""])

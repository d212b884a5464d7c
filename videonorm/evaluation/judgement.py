"""What an evaluation comes to: an artifact's scores, perhaps beside another's, as record, tables, picture."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from videonorm.evaluation.comparison import Comparison, compare_top1
from videonorm.evaluation.confusion import confusion_matrix, confusion_picture, write_classes
from videonorm.evaluation.evaluate_options import beside
from videonorm.evaluation.evaluation import Evaluation, Options
from videonorm.evaluation.processes import Processes
from videonorm.evaluation.score_table import TABLES, Top1, read_top1, write_scores
from videonorm.files import write
from videonorm.look import as_png


@dataclass(frozen=True)
class Judgement:
    """An artifact that is judged; ``other`` is the one that it is compared with, if that was scored, too."""

    evaluation: Evaluation
    other: Evaluation | None
    comparison: Comparison | None
    all_scores: bool
    duration_seconds: float  # of this session

    def record(self) -> dict[str, Any]:
        """The content of the JSON."""
        compared = {"comparison": self.comparison.record()} if self.comparison else {}
        record = self.evaluation.record(self.all_scores)
        return {**record, **compared, "duration_seconds": self.duration_seconds}

    def write_tables(self, out: Path) -> None:
        """Write what stands beside the JSON ``out``.

        Raises:
            OSError: a file cannot be written.
        """
        judged, names = self.evaluation, self.evaluation.names
        write_scores(beside(out, "scores.npz"), judged.manifest, judged.scores, judged.views)
        write_classes(beside(out, "classes.csv"), judged.scores, names)
        picture = confusion_picture(confusion_matrix(judged.scores), names)
        write(beside(out, "confusion.png"), as_png(picture))
        if self.other:
            other = self.other
            write_scores(beside(out, "compared.scores.npz"), other.manifest, other.scores, other.views)

    def discard(self) -> None:
        """All is written: what was kept on the way need not be."""
        for evaluation in (self.evaluation, self.other):
            if evaluation:
                evaluation.discard()


@contextmanager
def judge(
    artifact: Path,
    data: Path,
    *,
    compare: Path | None = None,
    out: Path | None = None,
    all_scores: bool = False,
    processes: Processes = Processes(),  # noqa: B008  # it cannot be changed
    **options: Any,
) -> Iterator[Judgement | None]:
    """Score an artifact, and perhaps another or what an earlier evaluation has left.

    All processes but the first get None.

    Args:
        compare: the other artifact, or a file of TABLES.
        out: the JSON that will be written: parts are kept beside it until ``Judgement.discard``.
        options: see ``Options``.

    Raises:
        UserError: see ``Evaluation``; before anything is scored, if it can be known.
    """
    started = time.perf_counter()
    how = Options(**options)
    with ExitStack() as stack:
        judged = stack.enter_context(closing(Evaluation(artifact, data, how, processes)))
        other = earlier = None
        if compare is not None and compare.suffix in TABLES:
            earlier = read_top1(compare)
        elif compare is not None:
            other = stack.enter_context(closing(Evaluation(compare, data, how, processes)))
        judged.score(out and beside(out, "partial"), "videos")
        if compare and other:
            other.score(out and beside(out, "compared.partial"), f"of {compare.name}")
        if processes.rank:
            yield None
            return
        if other:
            earlier = Top1.of(other.manifest, other.scores)
        console = Console(stderr=True, highlight=False, markup=False)
        told = [judged.summary(), *map(str, judged.deviations)]
        if other:
            told += [f"of {compare}: {of}" for of in [other.summary(), *other.deviations]]
        console.print("\n".join(told), soft_wrap=True)
        comparison = None
        if earlier:
            comparison = compare_top1(Top1.of(judged.manifest, judged.scores), earlier, str(compare))
            console.print(str(comparison), soft_wrap=True)
        yield Judgement(judged, other, comparison, all_scores, time.perf_counter() - started)

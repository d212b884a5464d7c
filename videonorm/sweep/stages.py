"""What is trained before a sweep, a search or a pretraining, and the sweep itself."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from videonorm.errors import UserError
from videonorm.sweep import run
from videonorm.sweep.plan import Plan
from videonorm.sweep.records import LAST_CHECKPOINT
from videonorm.sweep.results import Result
from videonorm.sweep.shards import WHOLE, Shard
from videonorm.sweep.transfer import PRETRAIN


def run_stages(
    plan: Plan,
    output: Path,
    console: Console,
    show: Callable[[Path], object],
    *,
    shard: Shard = WHOLE,
    jobs: int | None = None,
    ray: str | None = None,
) -> list[Result]:
    """Train a plan after what comes before it, which has folders of its own in ``output``; see ``run_sweep``.

    Args:
        show: called with the folder of what came before, once it is over.

    Raises:
        UserError: as ``run_sweep``; or other shards have not ended what comes before.
    """

    def stage(name: str, before: Plan) -> list[Result]:
        """All results of what comes before."""
        results = run.run_sweep(before, output / name, console, shard=shard, jobs=jobs, ray=ray)
        show(output / name)
        if missing := len(before.runs) - len(results):
            raise UserError(
                f"{name} must be over before the sweep, and {missing} runs of other shards are not; "
                "the same command goes on when they are"
            )
        return results

    if plan.search:
        plan = plan.with_found(stage("search", plan.search))
    if plan.pretrain:
        results = stage(PRETRAIN, plan.pretrain)
        plan = plan.with_pretrained(results, lambda name: output / PRETRAIN / name / LAST_CHECKPOINT)
    return run.run_sweep(plan, output, console, shard=shard, jobs=jobs, ray=ray)

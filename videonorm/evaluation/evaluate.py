"""`videonorm evaluate`: judge an exported artifact on a manifest of videos. One JSON is the result."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from videonorm.errors import UserError
from videonorm.evaluation.evaluate_options import beside, parser
from videonorm.evaluation.processes import Processes, run_in_processes
from videonorm.files import check_writable, write
from videonorm.interruption import stops

# What is heavy is imported where it is used, so that --help answers at once.


def main(argv: list[str]) -> None:
    options = parser().parse_args(argv)
    processes = Processes.of_environment(os.environ)
    if options.devices not in (1, processes.count) and processes.count > 1:
        raise UserError(
            f"devices ({options.devices}) must be left out where processes are started otherwise "
            f"(WORLD_SIZE is {processes.count})"
        )
    if options.out is None and max(options.devices, processes.count) > 1:
        raise UserError(
            f"out must be given to {max(options.devices, processes.count)} processes: they meet there"
        )
    if options.out is not None:
        try:
            check_writable(options.out)
        except OSError as error:
            raise _unwritable(options.out, error) from error
    kept = "no result is kept, and the same command starts from the first video"
    if options.out is not None:
        kept = f"what is done is in {beside(options.out, 'partial')}, and the same command goes on from there"
    with stops(kept):
        if options.devices > processes.count:
            run_in_processes(options.devices, run, options)
        else:
            run(options)


def run(options: Namespace) -> None:
    """Evaluate in this process, and write the result if it is the first one."""
    from videonorm.evaluation.judgement import judge

    given = dict(vars(options))
    del given["devices"]
    out = given["out"]
    with judge(**given, processes=Processes.of_environment(os.environ)) as judgement:
        if judgement is None:
            return
        text = json.dumps(judgement.record(), indent=2) + "\n"
        if out is None:
            print(text, end="")
            return
        try:
            judgement.write_tables(out)
            write(out, text)
        except OSError as error:
            print(text, end="")  # what took hours must not be lost
            raise _unwritable(out, error) from error
        judgement.discard()


def evaluate_artifact(artifact: Path, data: Path, **options: Any) -> dict[str, Any]:
    """Score an artifact on a manifest; shows a progress bar.

    Args:
        options: those of `videonorm evaluate`, but for --devices; ``out`` is where parts are kept.

    Returns:
        What `VideoScores.metrics` has, over the num_videos that have scores, with the 95 % interval of top1
        and the calibration error; bad_videos, classes, videos (rank: place of the label among the scores,
        from 1, the mean of its places where others tie with it), and what was done: views, artifact, data,
        precision and so on.

    Raises:
        UserError: an artifact, manifest or device that cannot be used, a label that the model does not know,
            more bad videos than allowed, or scores that are not finite.
    """
    from videonorm.evaluation.judgement import judge

    with judge(artifact, data, **options) as judgement:
        assert judgement is not None
        return judgement.record()


def _unwritable(out: Path, error: OSError) -> UserError:
    return UserError(f"out ({out}) must be a file that can be written ({error.strerror})")

"""``videonorm bench``: the way to each of the benchmarks.

A module of this room has a `parser()` of its options and a `run(options)`, which is the benchmark. Help and a
mistyped option answer at once: whatever is heavy is imported when it is run.
"""

from videonorm.options import run_one_of

BENCHMARKS = {
    "kernels": "single operators beside their peers",
    "step": "a whole training step, norm beside norm",
    "host": "the time in which the host queues a norm and a step, on any machine",
    "decode": "the frames of a clip out of a file",
    "loader": "whole training loaders",
    "views": "all views of a video for a test",
}


ABOUT = "Measure the parts beside their peers on this machine, to a table and a CSV file."


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an unknown benchmark or option, or a device that this machine has not.
    """
    run_one_of(BENCHMARKS, argv, name="bench", about=ABOUT, kind="benchmark", modules="videonorm.bench.{}")

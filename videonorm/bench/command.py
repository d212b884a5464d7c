"""``videonorm bench``: the way to each of the benchmarks.

A module of this room has a `parser()` of its options and a `run(options)`, which is the benchmark. Help and a
mistyped option answer at once: whatever is heavy is imported when it is run.
"""

import importlib

from videonorm.errors import UserError
from videonorm.messages import did_you_mean

BENCHMARKS = {
    "kernels": "single operators beside their peers",
    "step": "a whole training step, norm beside norm",
    "decode": "the frames of a clip out of a file",
    "loader": "whole training loaders",
    "views": "all views of a video for a test",
}


def usage() -> str:
    width = max(map(len, BENCHMARKS))
    rows = "\n".join(f"  {name:{width}}  {text}" for name, text in BENCHMARKS.items())
    return (
        "usage: videonorm bench BENCHMARK [options]\n\n"
        "Measure the parts beside their peers on this machine, to a table and a CSV file.\n\n"
        f"benchmarks:\n{rows}\n\n"
        "`videonorm bench BENCHMARK --help` lists a benchmark's options."
    )


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an unknown benchmark or option, or a device that this machine has not.
    """
    name, *options = argv or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return
    if name not in BENCHMARKS:
        hint = did_you_mean(name, BENCHMARKS)
        raise UserError(f"benchmark ({name}) must be one of {', '.join(BENCHMARKS)}{hint}")
    benchmark = importlib.import_module(f"videonorm.bench.{name}")
    benchmark.run(benchmark.parser().parse_args(options))

"""Options of which --quick has defaults of its own, and help that says so."""

import pytest

from videonorm.bench import command, decode, kernels, loader, profile, step, views
from videonorm.bench.options import BenchmarkParser


def parser():
    options = BenchmarkParser("any", "What it is.\n\nHow ``it`` is done.\n", {"error": "why"}, quick="little")
    options.add("--rounds", "of which the median is taken", 2, 1, type=int)
    options.add("--clip", "frames x stride", ((8, 8), (16, 4)), ((8, 8),))
    options.add("--num_frames", "of a clip", (8, 16), (), type=int)
    options.add("--name", "who takes part", ("a", "b"), choices=("a", "b"))
    return options


@pytest.mark.parametrize(
    ("argv", "values"),
    [
        ([], (2, ((8, 8), (16, 4)), (8, 16), ("a", "b"))),
        (["--quick"], (1, ((8, 8),), (), ("a", "b"))),
        (["--quick", "--rounds", "3", "--num_frames", "4", "--name", "b"], (3, ((8, 8),), [4], ["b"])),
    ],
)
def test_defaults(argv, values):
    options = parser().parse_args(argv)
    assert (options.rounds, options.clip, options.num_frames, options.name) == values
    names = {"rounds", "clip", "num_frames", "name"}
    assert options.given & names == {option[2:] for option in argv} & names


def test_help():
    text = " ".join(parser().format_help().split())
    assert (
        text.index("What it is.")
        < text.index("the results (default: runs/bench/any.csv)")
        < text.index("How `it` is done.")
    )
    assert "of which the median is taken (default: 2; quick: 1)" in text
    assert "frames x stride (default: 8x8 16x4; quick: 8x8)" in text
    assert "of a clip (default: 8 16)" in text and "who takes part (default: a b)" in text
    assert text.endswith("Columns of the results: error why")


@pytest.mark.parametrize("module", [kernels, step, profile, decode, loader, views])
def test_every_benchmark_tells_of_its_columns(module):
    assert module.__name__.rpartition(".")[2] in command.BENCHMARKS
    text = module.parser().format_help()
    assert all(f"    {column} " in text for column in module.COLUMNS)

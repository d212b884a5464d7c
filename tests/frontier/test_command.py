"""`videonorm frontier`: the way to its commands."""

import importlib

import pytest

from videonorm.errors import UserError
from videonorm.frontier.command import COMMANDS, main


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_without_a_command_all_are_named(argv, capsys):
    main(argv)
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in ("plan", "measure", "statistics"))


def test_a_wrong_command():
    with pytest.raises(UserError, match=r"^frontier \(paln\) must be one of plan, measure, statistics; did"):
        main(["paln"])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_are_understood(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    parser = importlib.import_module(f"videonorm.frontier.{name}_command").parser()
    examples = [
        line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  videonorm ")
    ]
    assert examples
    for _, _, command, *options in examples:
        assert command == name and parser.parse_args(options).config

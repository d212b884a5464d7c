"""``videonorm frontier``: the way to what is planned, what is measured, and what batch norm could rest on.

Each has a `parser()` of its options and a `run(options)`. Help and a mistyped option answer at once: whatever
is heavy is imported when it is run.
"""

import importlib

from videonorm.errors import UserError
from videonorm.messages import did_you_mean

COMMANDS = {
    "plan": "the largest batches that a GPU's memory holds, before anything is run",
    "measure": "the same on this device by real steps, with their speed, beside the plan",
    "statistics": "how many independent values batch norm would take its statistics of",
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: videonorm frontier COMMAND [options]\n\n"
        "Clip length, batch size, norm: what fits, how fast it is, where batch norm has too few clips.\n\n"
        f"commands:\n{rows}\n\n"
        "`videonorm frontier COMMAND --help` lists a command's options."
    )


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an option, the recipe or an overlay cannot be used, or no batch fits.
    """
    name, *options = argv or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        raise UserError(f"frontier ({name}) must be one of {', '.join(COMMANDS)}{hint}")
    command = importlib.import_module(f"videonorm.frontier.{name}_command")
    command.run(command.parser().parse_args(options))

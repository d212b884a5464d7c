"""``videonorm frontier``: the way to what is planned, what is measured, and what batch norm could rest on.

Each has a `parser()` of its options and a `run(options)`. Help and a mistyped option answer at once: whatever
is heavy is imported when it is run.
"""

from videonorm.options import run_one_of

COMMANDS = {
    "plan": "the largest batches that a GPU's memory holds, before anything is run",
    "measure": "the same on this device by real steps, with their speed, beside the plan",
    "statistics": "how many independent values batch norm would take its statistics of",
}


ABOUT = "Clip length, batch size, norm: what fits, how fast it is, where batch norm has too few clips."


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an option, the recipe or an overlay cannot be used, or no batch fits.
    """
    run_one_of(
        COMMANDS, argv, name="frontier", about=ABOUT, kind="command", modules="videonorm.frontier.{}_command"
    )

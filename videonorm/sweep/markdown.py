"""Tables in Markdown, for a README or an issue."""

import re
from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Lines of a table, the first row its headings.

    Args:
        left: so many columns begin at their left side, which is for words; the others end at their right.
    """
    heading, *others = [f"| {' | '.join(row)} |" for row in rows]
    return [heading, "|---" * left + "|--:" * (len(rows[0]) - left) + "|", *others]


def plain(text: str) -> str:
    """Text from a user's files, which is no markup and ends neither a line nor a field of a table."""
    line = re.sub(r"[^\S\u00a0]+", " ", text)  # a no-break space stays one
    return re.sub(r"[\\`*\[\]<>|&~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)

"""Pages in HTML that need no other file: what they share, and how they are made.

base.html.j2 has the style sheet; parts.html.j2 what several pages show alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from videonorm.messages import counted
from videonorm.sweep import drawing


@dataclass(frozen=True)
class Drawn:
    """A picture, for a wide page and for a phone.

    Attributes:
        figure: the wide one, laid out.
        svg: of it, a file's content without a background.
        wide, narrow: elements to set into a page.
    """

    figure: Figure
    svg: str
    wide: str
    narrow: str


def draw_both(draw: Callable[..., Figure | None], name: str) -> Drawn | None:
    """Draw a picture twice; None where it has nothing to show.

    Args:
        draw: the figure; takes ``phone``.
        name: unlike all others of its page.
    """
    wide, narrow = draw(phone=False), draw(phone=True)
    if not (wide and narrow):
        return None
    for figure in (wide, narrow):
        drawing.lay_out(figure)
    svg, on_phone = drawing.as_svg(wide, name), drawing.as_svg(narrow, f"{name}-phone")
    return Drawn(
        wide,
        svg,
        drawing.in_a_page(svg, wide.get_figwidth()),
        drawing.in_a_page(on_phone, narrow.get_figwidth()),
    )


def render(template: Path, **values: Any) -> str:
    """A page from its template, which may use base.html.j2 and parts.html.j2.

    Args:
        values: what the template names, beside ``format``, ``counted`` and ``written``, the time.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    written = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    known = {"format": format, "counted": counted, "written": written}
    return environment.get_template(template.name).render(**known, **values)

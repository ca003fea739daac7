"""The templates of pages and cards."""

from functools import cache
from pathlib import Path

import jinja2

FOLDER = Path(__file__).parent / "templates"


@cache
def templates() -> jinja2.Environment:
    """The templates; what is put into HTML is escaped, as a run may be a stranger's."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

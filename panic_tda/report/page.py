"""Render the gathered data as one HTML file that loads nothing and runs no foreign script."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

from panic_tda.errors import PanicTdaError
from panic_tda.report.container import pack
from panic_tda.wording import install_extra


class NoTemplates(PanicTdaError):
    """Jinja2, which renders the page, is not installed."""


def require_templates() -> None:
    """Check that the page can be rendered, before the database is read.

    Raises
    ------
    NoTemplates
        Jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise NoTemplates(f"a page needs Jinja2: {install_extra('report')}") from error


def render(page: dict[str, Any], *, command: str) -> str:
    """Render the page as HTML.

    Parameters
    ----------
    page : dict
        From `gathering.gather`.
    command : str
        Command line that writes this page again.

    Raises
    ------
    NoTemplates
        Jinja2 is not installed.
    """
    require_templates()
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_read_resource), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    style, script = _read_resource("style.css"), _read_resource("page.min.js")
    return environment.get_template("template.html.j2").render(
        head=page["head"],
        notes=page["notes"],
        command=command,
        policy=_compose_policy(style, script),
        style=style,
        script=script,
        data=pack(page | {"command": command}),
    )


def _compose_policy(style: str, script: str) -> str:
    """Return a content security policy that allows only the page's own style, script and images."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _read_resource(name: str) -> str:
    return files("panic_tda.report").joinpath(name).read_text(encoding="utf-8")

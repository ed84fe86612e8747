"""From what was gathered to one HTML file that nothing can be added to and that asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Any

from panic_tda.errors import PanicTdaError
from panic_tda.report.container import pack
from panic_tda.wording import install_extra

SCRIPTS = (
    "container",
    "dom",
    "colours",
    "state",
    "charts",
    "labels",
    "scatter",
    "hands",
    "images",
    "map",
    "clusters",
    "icicle",
    "strips",
    "dynamics",
    "density",
    "keyboard",
    "main",
)
"""The modules of the page's script, each after those that it imports."""
_IMPORT = re.compile(r"^import\s[^;]*?;\n", re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


class NoTemplates(PanicTdaError):
    """The package that fills in the page is missing."""


def require_templates() -> None:
    """Check that the page can be filled in, before hours of reading for it.

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
    """Return the page.

    Parameters
    ----------
    page : dict
        From `gathering.gather`.
    command : str
        The one that makes the page again.

    Raises
    ------
    NoTemplates
        Jinja2 is not installed.
    """
    require_templates()
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    style, script = _read("style.css"), bundle()
    return environment.get_template("template.html.j2").render(
        head=page["head"],
        notes=page["notes"],
        command=command,
        policy=_policy(style, script),
        style=style,
        script=script,
        data=pack(page | {"command": command}),
    )


def bundle() -> str:
    """Return all modules as one: a page without requests has nowhere to import from.

    What is imported stands above already, under its own name.
    """
    parts = [_EXPORT.sub("", _IMPORT.sub("", _read(f"{name}.js"))) for name in SCRIPTS]
    script = "\n".join(parts)
    if "</script" in script.lower() or "<!--" in script:
        raise AssertionError("the script would end its own element")
    return script


def _policy(style: str, script: str) -> str:
    """Allow the page its own style and script and the images it carries, and nothing else."""
    return (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _read(name: str) -> str:
    return files("panic_tda.report").joinpath(name).read_text(encoding="utf-8")

"""Open an HTML file in the user's browser, if a browser can be started."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from pathlib import Path

_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
_REMOTE = ("SSH_CONNECTION", "SSH_TTY", "SSH_CLIENT")


def open_page(path: Path) -> str | None:
    """Open a file in the browser; return None, or a message that says why this failed and what to do.

    The environment variable `BROWSER` names the browser, as for other programs.
    """
    import webbrowser

    if not os.environ.get("BROWSER") and _needs_display() and not any(map(os.environ.get, _DISPLAYS)):
        # Otherwise a text browser would start, which shows no map.
        is_remote = any(map(os.environ.get, _REMOTE))
        return _explain("this is an SSH session" if is_remote else "there is no display", path)
    try:
        is_opened = webbrowser.open(path.absolute().as_uri())
    except (webbrowser.Error, OSError) as error:
        return _explain(str(error), path)
    return None if is_opened else _explain("no browser could be started", path)


def _needs_display() -> bool:
    if any(map(os.environ.get, _REMOTE)):
        return True
    return sys.platform not in ("darwin", "win32")


def _explain(reason: str, path: Path) -> str:
    copy = f"scp {shlex.quote(f'{socket.gethostname()}:{path.absolute()}')} ."
    return f"{path} was not opened: {reason}. Open it in a browser; to copy it to another machine: {copy}"

"""Run commands in this process, and check how they ended."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from panic_tda.main import main


def invoke(*words: object, db: object = None, answer: str | None = None, **env: str) -> Result:
    """Run a command, with `--db` if a database is named; no error may show a traceback."""
    arguments = [*map(str, words), *(() if db is None else ("--db", str(db)))]
    result = CliRunner().invoke(main, arguments, input=answer, env=env)
    assert "Traceback" not in result.output
    return result


def succeed(*words: object, **more: Any) -> Result:
    """Run a command that must succeed."""
    result = invoke(*words, **more)
    assert result.exit_code == 0, result.output
    return result


def read_json(*words: object, **more: Any) -> Any:
    """Run a command that must succeed, and return its JSON."""
    return json.loads(succeed(*words, "--json", **more).stdout)


def fail(code: int, *words: object, **more: Any) -> str:
    """Run a command that must fail; return its stderr."""
    result = invoke(*words, **more)
    assert result.exit_code == code, result.output
    assert result.stderr
    return result.stderr

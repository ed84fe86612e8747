"""Test that commands start without heavy libraries, and that the repository has the documented layout."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.snapshots import REPOSITORY, run_python

PACKAGE = REPOSITORY / "panic_tda"
HEAVY = (
    "cupy",
    "cuml",
    "sklearn",
    "scipy",
    "numba",
    "numpy",
    "pyarrow",
    "sqlalchemy",
    "alembic",
    "plotly",
    "dask",
    "distributed",
    "rich",
    "sqlite3",
)
TOP_LEVEL = {"pyproject.toml", "panic_tda", "tests", "env", "scripts", "README.md", "LICENSE"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", ["panic_tda", "panic_tda.main"])
def test_commands_start_without_heavy_libraries(module: str, unmeasured: None) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    process = run_python(code)
    assert process.returncode == 0, process.stderr
    loaded = set(process.stdout.split())
    assert "panic_tda" in loaded
    assert loaded & set(HEAVY) == set()


def test_no_help_loads_a_heavy_library_either(unmeasured: None) -> None:
    code = (
        "import sys\nfrom panic_tda.main import main\n"
        "for words in ([], *([name] for name in main.commands)):\n"
        "    try: main([*words, '--help'])\n"
        "    except SystemExit: pass\n"
        "print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    )
    process = run_python(code)
    assert process.stdout.count("Usage: ") > 8
    assert "--epsilon" in process.stdout
    assert set(process.stdout.partition("LOADED")[2].split()) & set(HEAVY) == set()


def test_the_commands_know_the_backends() -> None:
    from panic_tda.cli import options
    from panic_tda.clustering import backends

    assert options.BACKENDS == backends.NAMES


def test_only_listed_modules_call_fsync() -> None:
    callers = {
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("fsync", "fdatasync")
    }
    # The second keeps nothing: it writes to find out why a disk refuses.
    assert callers == {"disk.py", "storage/reasons.py"}


def test_no_second_sqlite_library_is_imported() -> None:
    # One SQLite library in the process: a second one would drop the first one's locks.
    forbidden = {"apsw", "adbc_driver_sqlite", "adbc_driver_manager", "duckdb", "pysqlite3"}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
            else:
                continue
            assert not names & forbidden, path
            if "sqlite3" in names:
                assert path.relative_to(PACKAGE / "storage").as_posix() in {
                    "connections.py",
                    "database.py",
                    "read/completions.py",
                }


def test_the_top_level_is_what_the_design_says() -> None:
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout, so what belongs to the repository is not known")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    tops = {name.split("/")[0] for name in listed}
    assert {name for name in tops if not name.startswith(".")} <= TOP_LEVEL
    assert {"pyproject.toml", "panic_tda", "tests"} <= tops

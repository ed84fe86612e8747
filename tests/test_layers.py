"""Imports go one way, commands start without heavy libraries, and the repository has the rooms it says."""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.snapshots import REPOSITORY, run_python

PACKAGE = REPOSITORY / "panic_tda"
# Each imports only from lower ranks; a folder is one room, whose files know each other.
RANKS = {
    "errors": 0,
    "arrays": 0,
    "types": 0,
    "cuda": 1,
    "rows": 1,
    "schemas": 1,
    "parameters": 1,
    "progress": 1,
    "backends": 2,
    "hierarchy": 2,
    "medoids": 2,
    "duplicates": 2,
    "sampling": 2,
    "checkpoint": 2,
    "arrow_files": 2,
    "destinations": 2,
    "device_memory": 2,
    "database": 2,
    "clustering": 3,
    "loading": 3,
    "results": 3,
    "pending": 3,
    "device_pool": 3,
    "embedding_files": 3,
    "clustering_manager": 4,
    "recovery": 4,
    "rendering": 4,
    "report": 4,
    "planning": 4,
    "doctor": 4,
    "importing": 4,
    "exporting": 4,
    "upgrade": 4,
    "migrations": 4,
    "terminal": 4,
    "main": 5,
    "__main__": 6,
    # Looks names up where they live, when they are asked for.
    "__init__": 6,
}
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
)
TOP_LEVEL = {"pyproject.toml", "panic_tda", "tests", "env", "scripts", "README.md", "LICENSE"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import of the package itself, also of those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            # `from panic_tda import loading` names rooms, `from panic_tda.loading import …` contents.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "panic_tda" and rest:
                yield node.lineno, rest.split(".")[0]


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_every_room_has_a_rank() -> None:
    assert len(modules()) > 20
    assert {room_of(path) for path in modules()} - set(RANKS) == set()


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_to_lower_ranks_only(path: Path) -> None:
    own = room_of(path)
    upward = [
        f"{path.relative_to(REPOSITORY)}:{line} imports {room}"
        for line, room in imported_rooms(path)
        if room != own and RANKS[room] >= RANKS[own]
    ]
    assert upward == []


def test_the_walk_sees_imports_inside_functions_and_of_rooms() -> None:
    found = {room for _, room in imported_rooms(PACKAGE / "main.py")}
    assert {"parameters", "terminal", "clustering_manager", "rendering", "database", "upgrade"} <= found


@pytest.mark.parametrize("module", ["panic_tda", "panic_tda.main"])
def test_commands_start_without_heavy_libraries(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "panic_tda" in loaded
    assert loaded & set(HEAVY) == set()


def test_help_loads_no_heavy_library_either() -> None:
    code = (
        "import sys\nfrom panic_tda.main import main\n"
        "try: main(['cluster-embeddings', '--help'])\n"
        "except SystemExit: pass\n"
        "print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    )
    done = run_python(code)
    assert "--epsilon" in done.stdout
    assert set(done.stdout.partition("LOADED")[2].split()) & set(HEAVY) == set()


def test_the_commands_know_the_backends() -> None:
    from panic_tda import backends, main

    assert main.BACKENDS == backends.NAMES


def test_only_loading_code_speaks_to_drivers() -> None:
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
                assert room_of(path) == "database", path


def test_the_top_level_is_what_the_design_says() -> None:
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout, so what belongs to the repository is not known")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    tops = {name.split("/")[0] for name in listed}
    assert {name for name in tops if not name.startswith(".")} <= TOP_LEVEL
    assert {"pyproject.toml", "panic_tda", "tests"} <= tops

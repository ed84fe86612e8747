"""Test that a leading `~` is expanded to the home folder, and that no folder named `~` is created."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from panic_tda.arrays.destinations import HostRows
from panic_tda.cli import options
from panic_tda.clustering_manager import cluster_all_data
from panic_tda.errors import WrongUsage
from panic_tda.files.exporting import export_clustering
from panic_tda.files.importing import import_embeddings, sample_files
from panic_tda.main import main
from panic_tda.parameters import ClusteringParameters, Resources
from panic_tda.paths import expand_home, find_database_file
from panic_tda.storage.database import open_database
from panic_tda.storage.read.completions import read_model_names
from panic_tda.storage.read.results import list_clusterings
from panic_tda.storage.write.copying import copy_database
from panic_tda.storage.write.recovery import save_pending

SAMPLE = sample_files()[1]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a new home folder; the current folder is another one, and has to stay empty."""
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    home.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    return home


def invoke(*words: object, **env: str) -> Result:
    result = CliRunner().invoke(main, ["-q", *map(str, words)], env=env)
    assert result.exit_code == 0, result.output
    return result


def is_here_empty() -> bool:
    return not any(Path.cwd().iterdir())


@pytest.mark.parametrize("form", ["--db=~/new/x.sqlite", "--db=sqlite:///~/new/x.sqlite"])
def test_an_import_makes_the_database_in_the_home_folder(home: Path, form: str) -> None:
    invoke("import-embeddings", SAMPLE, form)
    assert (home / "new" / "x.sqlite").exists()
    assert is_here_empty()


def test_every_option_and_argument_that_is_a_path_is_expanded(home: Path) -> None:
    (home / "sample.parquet").write_bytes(SAMPLE.read_bytes())
    database = {"PANIC_TDA_DB": "~/x.sqlite"}
    invoke("import-embeddings", "~/sample.parquet", "--log-file=~/logs/log", **database)
    invoke("cluster-embeddings", "--work-dir=~/work", "--backend", "sklearn", "--downsample", "4", **database)
    invoke("export-clustering", "latest", "~/rows.parquet", **database)
    invoke("copy-database", "~/x.sqlite", "~/copies/y.sqlite")
    files = {path.relative_to(home).as_posix() for path in home.rglob("*")}
    assert {"x.sqlite", "logs/log", "rows.parquet", "copies/y.sqlite"} <= files
    for words, problem in {
        ("save-pending", "~/none.arrow"): f"no file at {home}/none.arrow",
        ("report-clustering", "-o", "~/none/page.html"): f"no folder {home}/none for the file page.html",
        ("plot-clustering", "-o", "~/none/map.png"): f"no folder {home}/none for the file map.png",
        ("list-clusterings", "--db", "~/none.sqlite"): f"no database at {home}/none.sqlite",
    }.items():
        refused = CliRunner().invoke(main, words, env=database)
        assert problem in refused.output.replace("\n", " ")
    assert is_here_empty()


def test_no_option_has_a_type_of_its_own_for_paths() -> None:
    types = [option.type for command in main.commands.values() for option in command.params]
    paths = [kind for kind in types if isinstance(kind, click.Path)]
    assert len(paths) > len(main.commands), "each has --log-file, some have files"
    assert all(kind is options.PATH for kind in paths)


def test_paths_given_in_python_are_expanded_too(home: Path) -> None:
    (home / "sample.parquet").write_bytes(SAMPLE.read_bytes())
    for number, target in enumerate(("~/0.sqlite", Path("~/1.sqlite"), "sqlite:///~/2.sqlite")):
        database = open_database(target, create=True)
        assert database.path == home / f"{number}.sqlite"
    import_embeddings(["~/sample.parquet"], database)
    resources = Resources(work_dir=Path("~/work"), memory_limit=1 << 30)
    assert resources.work_dir == home / "work"
    parameters = ClusteringParameters(backend="sklearn")
    cluster_all_data("~/2.sqlite", parameters=parameters, downsample=4, resources=resources)
    with database.session() as session:
        (clustering,) = list_clusterings(session)
    assert export_clustering(database, clustering, "~/rows.csv").file == home / "rows.csv"
    copy_database("~/2.sqlite", "~/copies/3.sqlite")
    assert read_model_names("~/2.sqlite") == read_model_names("sqlite:///~/2.sqlite") == ["MiniLM"]
    with pytest.raises(WrongUsage, match=str(home)):
        save_pending(database, [Path("~/none.arrow")])
    HostRows(4, 2, memory_limit=1, work_dir=Path("~/rows")).put(np.ones((4, 2), np.float32))
    assert (home / "rows").is_dir()
    assert is_here_empty()


def test_tilde_user_is_expanded_for_known_users_only(home: Path) -> None:
    pwd = pytest.importorskip("pwd")
    user = pwd.getpwuid(0)
    assert expand_home(f"~{user.pw_name}/x") == Path(user.pw_dir, "x")
    assert expand_home("~nobody at all/x.sqlite") == Path("~nobody at all/x.sqlite")
    # As a path, this is the same.
    assert expand_home("./~/x") == expand_home("~/x") == home / "x"
    assert expand_home("a~/x") == Path("a~/x")


def test_a_tilde_without_a_home_folder_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "~")
    with pytest.raises(WrongUsage, match=r"~/x\.sqlite is in the home folder, which is unknown; set HOME"):
        open_database("~/x.sqlite", create=True)
    for words in (["--db=~/new/x.sqlite"], ["--db", "/tmp/none.sqlite", "--log-file=~/log"]):
        result = CliRunner().invoke(main, ["import-embeddings", str(SAMPLE), *words])
        assert result.exit_code == 2, result.output
        assert "which is unknown" in " ".join(result.output.split())
    assert is_here_empty()


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("a/b.sqlite", "a/b.sqlite"),
        ("sqlite:///a/b.sqlite", "a/b.sqlite"),
        ("sqlite:////a/b.sqlite?mode=ro", "/a/b.sqlite"),
        ("sqlite+pysqlite:///b.sqlite", "b.sqlite"),
        ("sqlite://", None),
        ("sqlite://host/b.sqlite", None),
        ("postgresql://host/name", None),
        ("", None),
    ],
)
def test_the_path_of_a_database_is_expanded(target: str, path: str | None) -> None:
    assert find_database_file(target) == (None if path is None else Path(path))

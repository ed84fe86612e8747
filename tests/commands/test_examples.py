"""Test that every help text ends with an example that works on the sample."""

from __future__ import annotations

import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from panic_tda.cli import options
from panic_tda.main import main
from tests.snapshots import REPOSITORY, opened

IDS = {
    "01a1fbfd-1fbd-75e0-b267-8ccba18d90c1": "LSA",
    "01a1fbfd-2068-7bb5-bf27-f9438c0dd32e": "MiniLM",
}
"""Of the clusterings of the sample's models; examples name them by their beginnings."""
SAMPLE = sorted((REPOSITORY / "panic_tda" / "sample").glob("*.parquet"))
DATABASE = "trajectory_data.sqlite"
NOT_RUN: dict[str, str] = (
    {} if find_spec("datamapplot") else {"plot-clustering": "DataMapPlot is not installed (extra figure)"}
)
"""Why the example of a command cannot be run on the sample."""
COMMANDS: dict[str, options.Command] = {"": main} | main.commands  # type: ignore[dict-item]


def invoke(*words: str, **settings: str) -> Result:
    return CliRunner().invoke(main, words, prog_name="panic-tda", **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the sample and a clustering of each of its models."""
    folder = tmp_path_factory.mktemp("sample")
    path = folder / DATABASE
    for words in (["import-embeddings", *map(str, SAMPLE)], ["cluster-embeddings"]):
        result = invoke(*words, "-q", "--db", str(path))
        assert result.exit_code == 0, result.output
    with opened(path) as raw:
        for identity, model in IDS.items():
            raw.execute(
                "UPDATE clusteringresult SET id = ? WHERE embedding_model = ?",
                (identity.replace("-", ""), model),
            )
    return path


@pytest.fixture
def checkout(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide a folder like a checkout, with the sample's database named by the environment."""
    shutil.copyfile(sample, tmp_path / DATABASE)
    (tmp_path / "panic_tda").symlink_to(REPOSITORY / "panic_tda")
    # UMAP has its own tests, and scripts/demo.sh a page by it; to compile it takes longer than all of this.
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PANIC_TDA_DB", DATABASE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_ends_with_an_example(name: str) -> None:
    words = [name] if name else []
    shown = invoke(*words, "--help").stdout
    assert shown.endswith(f"\n\nExample: panic-tda {COMMANDS[name].example}\n")


@pytest.mark.parametrize("name", main.commands)
def test_every_example_parses(name: str) -> None:
    first, *words = shlex.split(COMMANDS[name].example)
    assert first == name
    # Without --help, or nothing would be asked of the words.
    with main.commands[name].make_context(name, words) as context:
        assert context.args == []


# In the process whose tests have compiled the libraries of figures.
OF_FIGURES = (pytest.mark.xdist_group("report/test_figure.py"), pytest.mark.slow)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=OF_FIGURES if name == "plot-clustering" else ()) for name in COMMANDS]
)
def test_an_example_runs_on_the_sample(name: str, checkout: None) -> None:
    if name in NOT_RUN:
        pytest.skip(NOT_RUN[name])
    result = invoke(*shlex.split(COMMANDS[name].example), input="y\n")
    assert result.exit_code == 0, result.output
    assert result.stdout
    assert "Traceback" not in result.output


def test_reasons_name_existing_commands() -> None:
    assert set(NOT_RUN) <= set(COMMANDS)

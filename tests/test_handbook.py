"""Test that the handbook is complete, its links resolve, and its generated parts are up to date."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from panic_tda.cli import handbook, interruption, terminal
from panic_tda.insight import outlier_scores, step_rows
from panic_tda.main import main
from panic_tda.records import ClusteringRecord
from panic_tda.storage.read import exports
from panic_tda.storage.schema.tables import Base
from tests.command_line import invoke, succeed
from tests.documents import PAGES, README, remove_blocks
from tests.snapshots import REPOSITORY

MOST_LINES = {README: 250}
MOST_PAGE_LINES = 300
SUMMARY_WIDTH = 58
"""What is left of 80 columns beside the topic in the list of `panic-tda help`."""
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PROSE = "\n".join(PAGES.values())
CODE = set(re.findall(r"`([^`\n]+)`", PROSE))
WORDS_IN_CODE = {word for span in CODE for word in re.findall(r"[\w-]+", span)}
DATA_KEYS = {"periodic_runs", "totals", "versions", "memory", "backends"}
"""Keys of objects whose own keys are data: periods, factors, libraries, backends."""


def test_every_page_is_in_one_chapter() -> None:
    files = {path.stem for path in handbook.FOLDER.glob("*.md")}
    assert files == set(handbook.TOPICS)
    assert len(handbook.TOPICS) == len(files) == 26


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short_and_says_what_it_answers(page: str) -> None:
    lines = PAGES[page].splitlines()
    assert len(lines) <= MOST_LINES.get(page, MOST_PAGE_LINES)
    assert lines[0].startswith("# ")
    assert lines[1] == ""
    if page != README:
        assert lines[3] == ""
        assert lines[2].endswith(".")
        assert len(lines[2]) <= SUMMARY_WIDTH


def find_anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.M), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


LINKED = [README, ".github/CONTRIBUTING.md", *(f"panic_tda/handbook/{topic}.md" for topic in handbook.TOPICS)]


@pytest.mark.parametrize("name", LINKED)
def test_links_resolve(name: str) -> None:
    path = REPOSITORY / name
    for target in LINK.findall(remove_blocks(path.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://")):
            continue
        file_name, _, anchor = target.partition("#")
        file = path.parent / file_name if file_name else path
        assert file.is_file(), target
        if anchor:
            assert anchor in find_anchors(file.read_text(encoding="utf-8")), target


def test_the_pages_are_installed_with_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["panic_tda"]
    installed = {path for pattern in patterns for path in (REPOSITORY / "panic_tda").glob(pattern)}
    assert {handbook.FOLDER / f"{topic}.md" for topic in handbook.TOPICS} <= installed


def test_the_readme_leads_to_every_page() -> None:
    targets = {Path(target.partition("#")[0]).stem for target in LINK.findall(PAGES[README])}
    assert targets >= set(handbook.TOPICS)


def test_generated_parts_are_up_to_date() -> None:
    pages = runpy.run_path(str(REPOSITORY / "scripts" / "command_reference.py"))["generate_pages"]()
    assert [path.name for path in pages] == ["cli-reference.md", "troubleshooting.md"]
    for path, text in pages.items():
        assert path.read_text(encoding="utf-8") == text, "run scripts/command_reference.py"


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_and_option_is_explained(name: str) -> None:
    command = main.commands[name]
    assert command.help
    assert f"panic-tda {name}" in PROSE or name in CODE
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"
            assert {word for word in parameter.opts if word in PROSE}, f"{name} {parameter.opts}"


def test_every_exit_code_is_explained() -> None:
    codes = {0, terminal.EXIT_FAILED, terminal.EXIT_USAGE}
    codes |= {interruption.EXIT_INTERRUPTED, interruption.EXIT_TERMINATED}
    explained = PAGES["troubleshooting"].partition("## Exit codes\n")[2].partition("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", explained, re.MULTILINE)} == codes


def find_errors() -> Iterator[str]:
    """Yield the names of the package's exceptions that a user meets."""
    bases = {"PanicTdaError"}
    classes = [
        node
        for path in sorted(
            (REPOSITORY / "panic_tda").rglob("*.py"), key=lambda path: path.name != "errors.py"
        )
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    for node in classes:
        if bases & {base.id for base in node.bases if isinstance(base, ast.Name)}:
            bases.add(node.name)
            yield node.name


def test_every_error_is_explained() -> None:
    errors = {*find_errors()}
    assert len(errors) > 15
    explained = PAGES["troubleshooting"].partition("## Errors\n")[2].partition("\n## ")[0]
    assert errors - set(re.findall(r"`(\w+)`", explained)) == set()


def test_every_table_and_column_is_explained() -> None:
    explained = set(re.findall(r"`([^`\n]+)`", PAGES["schema"]))
    for table in Base.metadata.tables.values():
        assert {table.name, *table.columns.keys()} <= explained, table.name
    parameters = {field.name for field in dataclasses.fields(ClusteringRecord)} - {"further"}
    assert parameters <= explained


def test_every_exported_column_is_explained() -> None:
    columns = {*exports.COLUMNS.names, *outlier_scores.COLUMNS, exports.VECTOR, *step_rows.COLUMNS.names}
    columns |= {field.name for field in step_rows.DRIFT}
    assert columns | {"x", "y"} <= set(re.findall(r"`([^`\n]+)`", PAGES["exporting"]))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a clustering of one of the sample's models, and one recut from it."""
    path = tmp_path_factory.mktemp("handbook") / "sample.sqlite"
    sample = REPOSITORY / "panic_tda" / "sample" / "captions_lsa.parquet"
    for words in (["import-embeddings", str(sample)], ["cluster-embeddings"]):
        succeed(*words, "-q", db=path)
    return path


def find_keys(data: Any) -> Iterator[str]:
    """Yield the keys of all objects, but those that are data."""
    if isinstance(data, list):
        for value in data:
            yield from find_keys(value)
    elif isinstance(data, dict):
        for key, value in data.items():
            yield key
            inner = value.values() if key in DATA_KEYS and isinstance(value, dict) else [value]
            for nested in inner:
                yield from find_keys(nested)


@pytest.mark.usefixtures("no_umap")
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("info", 0),
        ("list-clusterings", 0),
        ("show-clustering latest", 0),
        ("recut-clustering latest --epsilon 0.9", 0),
        ("sweep-clustering latest --epsilon 0.3,0.9", 0),
        ("show-trajectories latest --runs", 0),
        ("show-divergence latest", 0),
        ("show-clustering latest --words", 0),
        ("show-merges latest", 0),
        ("stability-clustering latest --resamples 2", 0),
        ("show-density latest", 0),
        ("compare-clusterings latest latest", 0),
        ("plan-clustering --downsample 10", 0),
        ("import-embeddings {sample}", 0),
        ("export-clustering latest {folder}/rows.parquet", 0),
        ("report-clustering latest -o {folder}/report.html --map-rows 100", 0),
        ("copy-database {database} {folder}/copy.sqlite", 0),
        ("save-pending", 0),
        ("doctor", 0),
        ("doctor --fix --yes", 0),
        ("doctor --environment", 0),
        ("show-clustering nothing", 2),
    ],
)
def test_every_key_of_json_is_explained(line: str, code: int, database: Path, tmp_path: Path) -> None:
    sample = REPOSITORY / "panic_tda" / "sample" / "captions_lsa.parquet"
    words = line.format(sample=sample, folder=tmp_path, database=database).split()
    result = invoke(*words, "--json", "-q", db=database)
    assert result.exit_code == code, result.output
    keys = {*find_keys(json.loads(result.stdout))}
    assert keys
    assert keys - WORDS_IN_CODE == set()


def test_guarantees_name_tests_that_exist() -> None:
    promises = PAGES["guarantees"].partition("## Promises\n")[2].partition("\n## ")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ")][1:]
    named = re.findall(r"`((?:scripts/)?[\w/]+\.(?:py|sh))(?:::(\w+))?`", "".join(rows))
    assert len(named) > len(rows) > 15
    for file, test in named:
        path = REPOSITORY / file if file.startswith("scripts/") else REPOSITORY / "tests" / file
        assert path.is_file(), file
        assert not test or f"def {test}(" in path.read_text(encoding="utf-8"), test
    for row in rows:
        assert ".py" in row or ".sh" in row, row


def test_paths_that_are_named_exist() -> None:
    named = set(re.findall(r"`((?:panic_tda|tests|scripts|env)/[\w/.-]+)`", PROSE))
    assert len(named) > 20
    assert [path for path in sorted(named) if not (REPOSITORY / path).exists()] == []


def test_the_glossary_defines_a_term_once() -> None:
    titles = re.findall(r"^### (.+)$", PAGES["glossary"], re.MULTILINE)
    terms = [term.casefold() for title in titles for term in title.split(", ")]
    assert len(terms) == len(set(terms)) > 50
    assert titles == sorted(titles, key=str.casefold)
    parameters = {"min_samples", "min_cluster_size", "epsilon", "medoid", "persistence", "core distance"}
    assert parameters <= set(terms)

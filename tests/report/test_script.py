"""Test the script of the page: types and lint by Deno, and the bundle in the page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from panic_tda.report import page

FOLDER = Path(page.__file__).parent
BUNDLE = FOLDER / "page.min.js"
SOURCES = sorted(set(FOLDER.glob("*.js")) - {BUNDLE})
DENO = shutil.which("deno", path=str(Path(sys.executable).parent)) or shutil.which("deno")
needs_deno = pytest.mark.skipif(DENO is None, reason="Deno is not installed: pip install deno")


def run_deno(*words: str, folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(DENO), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**environment, "NO_COLOR": "1", "DENO_NO_UPDATE_CHECK": "1"},
        check=False,
    )


def test_no_text_becomes_markup() -> None:
    assert len(SOURCES) > 10
    for path in [*SOURCES, BUNDLE]:
        script = path.read_text(encoding="utf-8")
        for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
            assert name not in script, (path.name, name)


def test_the_bundle_neither_imports_nor_ends_its_element() -> None:
    bundle = BUNDLE.read_text(encoding="utf-8")
    assert not re.search(r"\b(import|export)\b *[({*\"']", bundle)
    assert "</script" not in bundle.lower()
    assert "<!--" not in bundle


def test_the_bundle_has_the_licences_of_what_is_in_it() -> None:
    licences = list((FOLDER / "vendor").glob("*/LICENSE"))
    assert len(licences) == len(list((FOLDER / "vendor").iterdir())) > 0
    bundle = BUNDLE.read_text(encoding="utf-8")
    for licence in licences:
        assert licence.read_text(encoding="utf-8").strip() in bundle, licence


@pytest.mark.slow
@needs_deno
@pytest.mark.parametrize("words", [("check", "."), ("lint",)])
def test_scripts_pass_type_checks_and_lint(words: tuple[str, ...], tmp_path: Path) -> None:
    process = run_deno(*words, folder=FOLDER, environment={"DENO_DIR": str(tmp_path), "PATH": ""})
    assert process.returncode == 0, process.stderr


@needs_deno
def test_the_bundle_is_made_of_the_sources(tmp_path: Path) -> None:
    """Deno downloads esbuild once with the machine's settings, and later needs no network."""
    folder = tmp_path / "report"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns(BUNDLE.name, "*.py", "__pycache__"))
    process = run_deno("task", "bundle", folder=folder, environment=os.environ)
    if "Failed loading" in process.stderr and "esbuild" in process.stderr:
        pytest.skip("esbuild cannot be fetched without a network")
    assert process.returncode == 0, process.stderr
    rebuilt = (folder / BUNDLE.name).read_bytes()
    assert rebuilt == BUNDLE.read_bytes(), "rebuild it: cd panic_tda/report && deno task bundle"

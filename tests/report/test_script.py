"""The page's script: types and lint by Deno, and what putting its modules into one needs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from panic_tda.report import page

FOLDER = Path(page.__file__).parent
DENO = shutil.which("deno", path=str(Path(sys.executable).parent)) or shutil.which("deno")
TOP_LEVEL = re.compile(r"^(?:export )?(?:async )?(?:const|let|var|class|function) (\w+)", re.MULTILINE)


def test_all_modules_are_in_the_page_each_after_those_it_imports() -> None:
    assert sorted(page.SCRIPTS) == sorted(path.stem for path in FOLDER.glob("*.js"))
    for at, name in enumerate(page.SCRIPTS):
        imported = re.findall(r'from "\./(\w+)\.js"', (FOLDER / f"{name}.js").read_text(encoding="utf-8"))
        assert set(imported) <= set(page.SCRIPTS[:at]), name


def test_no_name_stands_in_two_modules() -> None:
    """They are one module in the page, and nothing is imported under another name."""
    names = Counter(
        name
        for script in page.SCRIPTS
        for name in TOP_LEVEL.findall((FOLDER / f"{script}.js").read_text(encoding="utf-8"))
    )
    assert len(names) > 50
    assert [name for name, count in names.items() if count > 1] == []
    assert " as " not in "".join(
        re.findall(r"^import [^;]*;", "".join(path.read_text() for path in FOLDER.glob("*.js")), re.MULTILINE)
    )


def test_nothing_becomes_markup() -> None:
    for path in FOLDER.glob("*.js"):
        script = path.read_text(encoding="utf-8")
        for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
            assert name not in script, (path.name, name)
    bundle = page.bundle()
    assert not re.search(r"^(import|export) ", bundle, re.MULTILINE)


@pytest.mark.skipif(DENO is None, reason="Deno is not installed: pip install deno")
@pytest.mark.parametrize("words", [("check",), ("lint", "--rules-exclude=no-window")])
def test_types_and_lint(words: tuple[str, ...], tmp_path: Path) -> None:
    settings = {
        "compilerOptions": {"checkJs": True, "strict": True, "lib": ["dom", "dom.iterable", "esnext"]}
    }
    (tmp_path / "deno.json").write_text(json.dumps(settings))
    files = [str(FOLDER / f"{name}.js") for name in page.SCRIPTS]
    done = subprocess.run(
        [str(DENO), *words, "--config", str(tmp_path / "deno.json"), *files],
        capture_output=True,
        text=True,
        env={"DENO_DIR": str(tmp_path), "NO_COLOR": "1", "PATH": "", "DENO_NO_UPDATE_CHECK": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr

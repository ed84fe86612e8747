"""Search for files and command lines that end the program without a proper error message.

The search (atheris on libFuzzer) is guided by the lines of the package that an input reaches. It ends at the
first crash, or after SECONDS. FOLDER gets the crashing inputs as crash-*, and the inputs that reach new
lines, which the next search starts from.

    scripts/fuzz.sh importer FOLDER SECONDS
    scripts/fuzz.sh arguments FOLDER SECONDS
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["panic_tda.files", "panic_tda.cli", "panic_tda.commands"]):
    from panic_tda.errors import BadInput, WrongUsage
    from panic_tda.files.embedding_files import EmbeddingFile
    from panic_tda.main import main
    from tests.field_files import FieldSpec, write_field_file
    from tests.files.test_damaged_files import FORMATS, encoded, table
    from tests.hostile import command_line, require_harmless


def read_file(path: Path) -> Callable[[bytes], None]:
    """Return a function that reads bytes as an embeddings file, without and with its vectors."""

    def read(content: bytes) -> None:
        path.write_bytes(content)
        try:
            file = EmbeddingFile(path, "B")
            for batch in (*file.texts(), *file.batches()):
                repr(batch)
        except (BadInput, WrongUsage):
            pass

    return read


def run_words(folder: Path) -> Callable[[bytes], None]:
    """Return a function that runs the command line chosen by bytes."""
    database = folder / "field.sqlite"
    write_field_file(database, FieldSpec())
    for words in ("upgrade --yes", "cluster-embeddings --min-cluster-size 2"):
        main([*words.split(), "-q", "--db", str(database)], standalone_mode=False)
    # Packages that take seconds to import count as not installed.
    sys.modules.update({"umap": None, "datamapplot": None})  # type: ignore[dict-item]

    def run(content: bytes) -> None:
        chosen = atheris.FuzzedDataProvider(content)
        words = command_line(chosen.PickValueInList, chosen.ConsumeIntInRange(0, 6))
        require_harmless(database, folder / "run", words)

    return run


def fuzz(target: str, corpus: str, seconds: str) -> None:
    """Fuzz a target until the first crash, or until the time is over."""
    Path(corpus).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        if target == "importer":
            for form, write in FORMATS.items():
                for kind, content in (("plain", table()), ("encoded", encoded(table()))):
                    Path(corpus, f"{form}-{kind}").write_bytes(write(content))
            run = read_file(folder / "file")
        else:
            run = run_words(folder)
        limits = [
            f"-max_total_time={seconds}",
            f"-artifact_prefix={corpus}/",
            "-rss_limit_mb=4096",
            "-timeout=60",
        ]
        atheris.Setup(
            [sys.argv[0], corpus, "-max_len=16384", "-len_control=0", "-print_final_stats=1", *limits], run
        )
        atheris.Fuzz()


if __name__ == "__main__":
    fuzz(*sys.argv[1:])

"""Files that contain only texts, one for each row of an array of vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from panic_tda.errors import BadInput, MissingPath
from panic_tda.storage.write.batches import refuse_row


@dataclass(frozen=True)
class TextsFile:
    """A file of UTF-8 lines, or of a JSON list of strings if its name ends in `.json`.

    Parameters
    ----------
    path : Path
        The file.
    """

    path: Path

    def count(self) -> int:
        """Count the texts.

        Raises
        ------
        MissingPath, BadInput
            As `batches`.
        """
        return sum(1 for _ in self._read_texts())

    def batches(self, batch_rows: int) -> Iterator[pa.Array]:
        """Read the texts, `batch_rows` at a time.

        Raises
        ------
        MissingPath
            There is no such file.
        BadInput
            It is not UTF-8, or not a JSON list of strings.
        """
        texts = self._read_texts()
        while batch := list(islice(texts, batch_rows)):
            try:
                yield pa.array(batch, pa.large_string())
            except (pa.ArrowException, UnicodeError) as error:
                # JSON can contain unpaired surrogates.
                raise BadInput(f"{self.path} holds a text that is not Unicode: {error}") from error

    def _read_texts(self) -> Iterator[str]:
        try:
            if self.path.suffix.lower() == ".json":
                yield from self._read_json()
            else:
                yield from self._read_lines()
        except FileNotFoundError as error:
            raise MissingPath(f"no file {self.path}") from error
        except OSError as error:
            raise BadInput(f"{self.path} cannot be read: {error.strerror}") from error

    def _read_lines(self) -> Iterator[str]:
        with self.path.open("rb") as file:
            for row, line in enumerate(file):
                try:
                    text = line.decode("utf-8-sig" if row == 0 else "utf-8")
                except UnicodeDecodeError as error:
                    refuse_row(self.path, row, f"the text is not UTF-8: {error.reason}")
                yield text.removesuffix("\n").removesuffix("\r")

    def _read_json(self) -> list[str]:
        try:
            texts = json.loads(self.path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{self.path} is not JSON: {error}") from error
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise BadInput(f'{self.path} must hold a JSON list of strings, ["…", "…"]')
        return texts

"""The choice of the columns for texts and vectors, and suggestions if they are missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import pyarrow as pa

from panic_tda.errors import BadInput, WrongUsage
from panic_tda.files.arrow_files import CSV, NUMPY, ArrowFile
from panic_tda.files.columns import STRINGS, VECTORS, is_string

_LIKE_VECTOR = (
    "vectors",
    "embedding",
    "embeddings",
    "emb",
    "embs",
    "vec",
    "vecs",
    "dense",
    "values",
    "openai",
)
_LIKE_TEXT = (
    *("texts", "content", "contents", "title", "document", "documents", "doc", "sentence", "caption", "body"),
    *("passage", "chunk", "page_content", "output_text", "description", "abstract", "string", "sentences"),
)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns of a file that differ from the defaults.

    Attributes
    ----------
    text, vector, run, initial_prompt, sequence_number : str, optional
        Name of the column in the file. The default is the name of the attribute (for runs, `run` or else
        `run_id`). A column that is named here is not also read under its own name.
    no_text : bool
        Whether rows are read without a text.
    """

    text: str | None = None
    vector: str | None = None
    run: str | None = None
    initial_prompt: str | None = None
    sequence_number: str | None = None
    no_text: bool = False

    def __post_init__(self) -> None:
        if self.no_text and self.text is not None:
            raise WrongUsage(f"a text column {self.text} and no text were requested; choose one of them")
        stored = list(self.chosen().values())
        for name in stored:
            if stored.count(name) > 1:
                raise WrongUsage(f"column {name} was named for two purposes; name it for one")

    def chosen(self) -> dict[str, str]:
        """Return the names of the chosen columns in the file, by the name under which they are read."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: stored for name, stored in values.items() if isinstance(stored, str)}

    def names(self, all_names: Sequence[str]) -> dict[str, str | None]:
        """Return the argument for `ArrowFile.names`, given the names of all columns that may be read."""
        chosen = self.chosen()
        taken = {name: None for name in all_names if name in chosen.values()}
        if self.no_text:
            taken["text"] = None
        if self.run is not None:
            taken["run_id"] = None
        return {**taken, **chosen}

    def require(self, file: ArrowFile) -> None:
        """Check that a file has the chosen columns.

        Raises
        ------
        WrongUsage
            A chosen column is missing.
        """
        for stored in self.chosen().values():
            if stored not in file.schema.names:
                raise WrongUsage(
                    f"{file.path} has no column {stored}; it has {', '.join(file.schema.names) or 'none'}"
                )


def require_text_and_vector(file: ArrowFile, columns: Columns, optional: Sequence[str]) -> None:
    """Check that a file has columns of texts and vectors.

    Raises
    ------
    BadInput
        A file has no column `text` or `vector`; the message suggests likely columns.
    """
    needed = ["vector"] if columns.no_text else ["text", "vector"]
    missing = [name for name in needed if file.stored_name(name) is None]
    if not missing:
        return
    if missing == ["text"] and file.format == NUMPY and len(file.schema) == 1:
        raise BadInput(
            f"{file.path} contains only vectors; name a file of their texts with --texts FILE, or import "
            "them without texts with --no-text"
        )
    options, choices = [], []
    for name in missing:
        likely = _find_likely(file, name, optional)
        if len(likely) == 1:
            options.append(f"--{name}-column {likely[0]}")
        elif likely:
            choices.append(f"choose one of {', '.join(likely)} with --{name}-column")
        else:
            without = ", or import without texts with --no-text" if name == "text" else ""
            choices.append(f"name a column of {name}s with --{name}-column{without}")
    advice = "; ".join([*([f"use {' '.join(options)}"] if options else []), *choices])
    raise BadInput(
        f"{file.path} has no column {' and no column '.join(missing)}; it has "
        f"{', '.join(file.schema.names) or 'none'}. {advice[0].upper()}{advice[1:]}"
    )


def _find_likely(file: ArrowFile, name: str, optional: Sequence[str]) -> list[str]:
    """Return the columns that may be the missing one: those with a usual name, or else of the right type."""
    is_right, usual = (VECTORS[1], _LIKE_VECTOR) if name == "vector" else (STRINGS[1], _LIKE_TEXT)
    is_other: Callable[[str], bool] = {*optional, "text", "vector"}.__contains__
    of_type = [
        field.name
        for field in file.schema
        if not is_other(field.name) and (is_right(field.type) or _may_be_parsed(file, name, field.type))
    ]
    of_name = [column for column in of_type if column.lower() in usual]
    if of_name or (name == "vector" and file.format == CSV):
        return of_name
    return of_type


def _may_be_parsed(file: ArrowFile, name: str, kind: pa.DataType) -> bool:
    return name == "vector" and file.format == CSV and is_string(kind)

"""Opening of files of embeddings, of any supported format, which is recognised by the first bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from panic_tda.disk import require_regular_file
from panic_tda.errors import WrongUsage
from panic_tda.files import formats
from panic_tda.files.arrow_files import ArrowFile, open_arrow_file, translate_read_errors
from panic_tda.files.numpy_files import open_numpy_file
from panic_tda.files.text_tables import open_csv, open_ndjson
from panic_tda.files.texts_files import TextsFile


def open_table(path: Path, names: dict[str, str | None], texts: TextsFile | None = None) -> ArrowFile:
    """Open a file of embeddings.

    Parameters
    ----------
    path : Path
        A file of Parquet, Arrow, CSV, NDJSON, or NumPy arrays.
    names : dict of str to str
        As for `ArrowFile.names`.
    texts : TextsFile, optional
        Texts for the rows of an array.

    Raises
    ------
    MissingPath
        There is no such file.
    BadInput
        It has another format, which the message names, or is damaged.
    WrongUsage
        `texts` is given for a file that is not an array.
    """
    require_regular_file(path)
    with translate_read_errors(path):
        form = formats.recognise(path)
    is_archive = form is formats.NPZ
    if is_archive or form is formats.NPY:
        return open_numpy_file(path, names, texts, is_archive=is_archive)
    if texts is not None:
        raise WrongUsage(
            f"a file of texts ({texts.path}) can be used only with .npy and .npz files, and {path} is "
            "neither; name its column of texts"
        )
    if form is formats.CSV:
        return open_csv(path, names)
    if form is formats.NDJSON:
        return open_ndjson(path, names)
    return replace(open_arrow_file(path), names=names)

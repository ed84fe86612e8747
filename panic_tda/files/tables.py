"""Files of embeddings of all formats that are read, opened by what their first bytes say."""

from __future__ import annotations

from pathlib import Path

from panic_tda.disk import require_regular_file
from panic_tda.errors import WrongUsage
from panic_tda.files import formats
from panic_tda.files.arrow_files import ArrowFile, open_arrow_file, readable
from panic_tda.files.numpy_files import open_numpy_file
from panic_tda.files.text_tables import open_csv, open_ndjson
from panic_tda.files.texts_files import TextsFile


def open_table(path: Path, names: dict[str, str | None], texts: TextsFile | None = None) -> ArrowFile:
    """Open a file of embeddings.

    Parameters
    ----------
    path : Path
        Of Parquet, Arrow, CSV, NDJSON, or NumPy's arrays.
    names : dict of str to str
        As `ArrowFile.names`.
    texts : TextsFile, optional
        A text for each row of an array.

    Raises
    ------
    MissingPath
        There is no such file.
    BadInput
        It is of another format, which the message names, or damaged.
    WrongUsage
        There are texts for a file that is no array.
    """
    require_regular_file(path)
    with readable(path):
        form = formats.recognise(path)
    is_archive = form is formats.NPZ
    if is_archive or form is formats.NPY:
        return open_numpy_file(path, names, texts, is_archive=is_archive)
    if texts is not None:
        raise WrongUsage(
            f"texts of a file of their own ({texts.path}) are for .npy and .npz files, and {path} is none; "
            "name its column of texts"
        )
    if form is formats.CSV:
        return open_csv(path, names)
    if form is formats.NDJSON:
        return open_ndjson(path, names)
    return open_arrow_file(path).with_names(names)

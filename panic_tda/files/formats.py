"""Recognition of file formats by the first bytes, not by the file name extension."""

from __future__ import annotations

import codecs
import zipfile
from dataclasses import dataclass
from pathlib import Path

_HEAD, _LONGEST_LINE = 1 << 16, 1 << 26
_WRITE_PARQUET = "write what it holds as Parquet"


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes
    ----------
    name : str
        Its name in messages, with an article.
    advice : str
        What to do with a file of this format, if it cannot be read.
    """

    name: str
    advice: str = _WRITE_PARQUET


PARQUET, ARROW_FILE, ARROW_STREAM = Format("Parquet"), Format("an Arrow file"), Format("an Arrow stream")
NPY, NPZ = Format("a NumPy array"), Format("an archive of NumPy arrays")
NDJSON, CSV = Format("NDJSON (one JSON object per line)"), Format("CSV")
UNKNOWN = Format(
    "neither Parquet nor Arrow", "files of embeddings are Parquet, Arrow, .npy, .npz, CSV or NDJSON"
)
_EMPTY = Format("an empty file", "download or write it again")
_JSON = Format(
    "JSON that is not one object per line", 'write one line per row: {"text": "…", "vector": [0.1, 0.2]}'
)
_TEXT = Format("a text file without columns", "name its columns in the first line, or " + _WRITE_PARQUET)
_OTHER_TEXT = Format("text that is not UTF-8", "convert it to UTF-8")
_ZIP = Format("a zip archive", "unpack it first")
_EXCEL = Format("an Excel workbook", "save its sheet as CSV, UTF-8")
_TORCH = Format("a file of PyTorch", "write the tensor with numpy.save(path, tensor.numpy())")
_DAMAGED_ZIP = Format("a damaged zip or .npz archive", "download or write it again")

_NO_SAFE_READING = "it could run any code when it is read: write the array with numpy.save, or as Parquet"
_BY_MAGIC: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"PAR1", PARQUET),
    (0, b"ARROW1", ARROW_FILE),
    (0, b"\x93NUMPY", NPY),
    (0, b"PARE", Format("Parquet with an encrypted footer", "write it without encryption")),
    (0, b"FEA1", Format("Feather of version 1", "write it as Feather of version 2, or as Parquet")),
    (0, b"version https://git-lfs", Format("a Git LFS pointer, not the file itself", "run git lfs pull")),
    (0, b"SQLite format 3\0", Format("an SQLite database", "name it with --db, or write a table as Parquet")),
    (8, b"DUCK", Format("a DuckDB database", "COPY its table TO a Parquet file")),
    (0, b"\x1f\x8b", Format("compressed with gzip", "decompress it first: gzip -d")),
    (0, b"\x28\xb5\x2f\xfd", Format("compressed with zstd", "decompress it first: zstd -d")),
    (0, b"BZh", Format("compressed with bzip2", "decompress it first: bzip2 -d")),
    (0, b"\xfd7zXZ\0", Format("compressed with xz", "decompress it first: xz -d")),
    (0, b"\x04\x22\x4d\x18", Format("compressed with lz4", "decompress it first: lz4 -d")),
    (0, b"7z\xbc\xaf\x27\x1c", Format("a 7-Zip archive", "unpack it first")),
    (257, b"ustar", Format("a tar archive", "unpack it first: tar -xf")),
    (0, b"\x89HDF\r\n\x1a\n", Format("an HDF5 file", "write its arrays with numpy.save, or as Parquet")),
    (0, b"ORC", Format("an ORC file")),
    (0, b"Obj\x01", Format("an Avro file")),
    (8, b'{"', Format("a safetensors file", "write its tensor with numpy.save")),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _EXCEL),
    (0, b"%PDF", Format("a PDF")),
    (0, b"\x89PNG", Format("a PNG image", "import the vectors of an embedding model, not pictures")),
    (0, b"\xff\xd8\xff", Format("a JPEG image", "import the vectors of an embedding model, not pictures")),
    (0, b"\xff\xfe", _OTHER_TEXT),
    (0, b"\xfe\xff", _OTHER_TEXT),
    *((0, bytes([0x80, version]), Format("a pickle", _NO_SAFE_READING)) for version in range(2, 6)),
)


def recognise(path: Path) -> Format:
    """Return the format of a file, recognised by its first bytes.

    Raises
    ------
    OSError
        The file cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return _EMPTY
    if head.startswith(b"\xff\xff\xff\xff"):
        n_bytes = int.from_bytes(head[4:8], "little", signed=True)
        return ARROW_STREAM if 0 < n_bytes < 1 << 28 else UNKNOWN
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _recognise_zip(path)
    for start, magic, form in _BY_MAGIC:
        if head[start : start + len(magic)] == magic:
            return form
    return _recognise_text(path, head) or UNKNOWN


def _recognise_zip(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return _DAMAGED_ZIP
    if names and all(name.endswith(".npy") for name in names):
        return NPZ
    if any(name.startswith("xl/") for name in names):
        return _EXCEL
    return _TORCH if any(name.endswith("data.pkl") for name in names) else _ZIP


def _recognise_text(path: Path, head: bytes) -> Format | None:
    if any(byte < 32 and byte not in b"\t\n\f\r" for byte in head):
        return None
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        # The first bytes of a longer file may end within a character.
        text = decoder.decode(head, final=len(head) < _HEAD)
    except UnicodeDecodeError:
        return _OTHER_TEXT
    text = text.lstrip()
    start = text[:100].lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<body")):
        return Format("an HTML page", "perhaps the answer of a server instead of the file: download it again")
    if start.startswith("<?xml"):
        return Format("XML")
    if start.startswith("["):
        return _JSON
    if start.startswith("{"):
        with path.open("rb") as file:
            line = file.readline(_LONGEST_LINE)
            while line.isspace():
                line = file.readline(_LONGEST_LINE)
        return NDJSON if line.rstrip().endswith(b"}") else _JSON
    first = text.split("\n", 1)[0]
    is_named_so = path.suffix.lower() in (".csv", ".tsv")
    return CSV if is_named_so or any(mark in first for mark in ",\t;") else _TEXT

"""Test that files of other formats are refused by their format, whatever their names end in."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import struct
import tarfile
import zipfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from panic_tda.errors import BadInput
from panic_tda.files import formats
from panic_tda.files.arrow_files import open_arrow_file
from panic_tda.files.embedding_files import EmbeddingFile
from tests.files.test_importing import write_stream

TABLE = pa.table({"text": ["a", "b"], "vector": pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float32()))})


def parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(TABLE, file)
    return file.getvalue()


def written(function: object, *arguments: object) -> bytes:
    file = io.BytesIO()
    function(file, *arguments)  # type: ignore[operator]
    return file.getvalue()


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.parquet"))
    return file.getvalue()


def sqlite(folder: Path) -> bytes:
    with sqlite3.connect(folder / "base") as connection:
        connection.execute("CREATE TABLE a (b)")
    connection.close()
    return (folder / "base").read_bytes()


def duck(folder: Path) -> bytes:
    with duckdb.connect(folder / "duck") as connection:
        connection.execute("CREATE TABLE a (b INTEGER)")
    return (folder / "duck").read_bytes()


def orc(folder: Path) -> bytes:
    pa.orc.write_table(pa.table({"a": [1]}), folder / "orc")
    return (folder / "orc").read_bytes()


def safetensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


OTHER = {
    "empty": (b"", "is an empty file"),
    "gzip": (gzip.compress(parquet()), "is compressed with gzip"),
    "zstd": (pa.compress(b"a" * 100, "zstd", asbytes=True), "is compressed with zstd"),
    "bzip2": (bz2.compress(parquet()), "is compressed with bzip2"),
    "xz": (lzma.compress(parquet()), "is compressed with xz"),
    "zip": (zipped("a.parquet"), "is a zip archive"),
    "empty zip": (zipped(), "is a zip archive"),
    "damaged zip": (zipped("a.npy")[:40], "is a damaged zip"),
    "Excel": (zipped("[Content_Types].xml", "xl/workbook.xml"), "is an Excel workbook.*as CSV"),
    "old Excel": (bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600), "is an Excel workbook"),
    "PyTorch": (zipped("archive/data.pkl", "archive/data/0"), "is a file of PyTorch.*numpy.save"),
    "tar": (tarred(), "is a tar archive"),
    "HTML": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "is an HTML page.*download it again"),
    "HTML behind blanks": (b"\r\n  <HTML lang='en'>", "is an HTML page"),
    "XML": (b'<?xml version="1.0"?><a/>', "is XML"),
    "LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "is a Git LFS pointer.*git lfs pull",
    ),
    "pickle": (pickle.dumps(np.eye(2)), "is a pickle.*it could run any code"),
    "old pickle": (pickle.dumps([1], 2), "is a pickle"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file"),
    "Avro": (b"Obj\x01" + bytes(100), "is an Avro file"),
    "safetensors": (safetensors(), "is a safetensors file"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(100), "is a PNG image"),
    "PDF": (b"%PDF-1.7\n" + bytes(100), "is a PDF"),
    "encrypted Parquet": (b"PARE" + bytes(100), "is Parquet with an encrypted footer"),
    "JSON list": (b'[{"text": "a", "vector": [1.0, 0.0]}]', "is JSON that is not one object per line"),
    "JSON over lines": (json.dumps({"text": ["a"]}, indent=2).encode(), "is JSON that is not one object"),
    "UTF-16": ("text,vector\n".encode("utf-16"), "is text that is not UTF-8"),
    "Latin-1": ("text,vector\né,1 2\n".encode("latin-1"), "is text that is not UTF-8"),
    "prose": (b"a text\nand another\n", "is a text file without columns"),
    "unknown": (bytes(range(1, 256)) * 3, "is neither Parquet nor Arrow; files of embeddings are"),
    "zeros": (bytes(1000), "is neither Parquet nor Arrow"),
    "ones": (b"\xff" * 1000, "is neither Parquet nor Arrow"),
}


@pytest.mark.parametrize("name", OTHER)
def test_files_of_other_formats_are_refused_by_their_format(tmp_path: Path, name: str) -> None:
    content, message = OTHER[name]
    (tmp_path / "a.parquet").write_bytes(content)
    for read in (open_arrow_file, EmbeddingFile):
        with pytest.raises(BadInput, match=rf"a\.parquet {message}") as caught:
            read(tmp_path / "a.parquet")
        assert str(caught.value).count(". ") <= 2


def test_databases_and_old_formats_are_refused_by_their_format(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for content, message in (
        (sqlite(tmp_path), "is an SQLite database"),
        (duck(tmp_path), "is a DuckDB database"),
        (orc(tmp_path), "is an ORC file"),
        (b"FEA1" + bytes(100), "is Feather of version 1"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=message):
            EmbeddingFile(path)


def test_formats_that_dumps_do_not_have_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(2))
    (tmp_path / "a.csv").write_text("text,vector\na,1 2\n")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    for name, message in (("a.npy", "a NumPy array"), ("a.csv", "CSV"), ("a.jsonl", "NDJSON")):
        with pytest.raises(BadInput, match=rf"{name} is {message}.*; write what it holds as Parquet"):
            open_arrow_file(tmp_path / name)


def test_truncated_files_keep_a_message_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a"
    pyarrow.feather.write_feather(TABLE, tmp_path / "file")
    write_stream(TABLE, tmp_path / "stream")
    for content in (parquet(), (tmp_path / "file").read_bytes()):
        path.write_bytes(content[:-20])
        with pytest.raises(BadInput, match="a cannot be read as Parquet or Arrow: "):
            EmbeddingFile(path, "M")
    path.write_bytes((tmp_path / "stream").read_bytes()[:40])
    with pytest.raises(BadInput, match=r"a cannot be read as Parquet or Arrow: .*only read 32"):
        EmbeddingFile(path, "M")


def test_a_stream_of_an_old_version_is_read(tmp_path: Path) -> None:
    options = pa.ipc.IpcWriteOptions(use_legacy_format=True)
    with pa.ipc.new_stream(tmp_path / "a", TABLE.schema, options=options) as writer:
        writer.write_table(TABLE)
    assert (tmp_path / "a").read_bytes()[:4] != b"\xff" * 4
    (batch,) = EmbeddingFile(tmp_path / "a", "M").batches()
    assert batch.texts == ["a", "b"]


def test_messages_list_every_supported_format(tmp_path: Path) -> None:
    path = tmp_path / "a"
    long_line = json.dumps({"text": "a", "vector": [0.123456789] * 20_000}).encode() + b"\n"
    cut_character = ("x" * ((1 << 16) - len("text,vector\n") - 1) + "é").encode()
    for content, form in (
        (parquet(), formats.PARQUET),
        (written(np.save, np.eye(2)), formats.NPY),
        (written(np.savez, np.eye(2)), formats.NPZ),
        (b"\xef\xbb\xbftext,vector\na,1 2\n", formats.CSV),
        (b"text\tvector\na\t1 2\n", formats.CSV),
        (b"text,vector\n" + cut_character, formats.CSV),
        (long_line * 2, formats.NDJSON),
        (b'\n{"text": "a"}\n', formats.NDJSON),
    ):
        path.write_bytes(content)
        assert formats.recognise(path) is form

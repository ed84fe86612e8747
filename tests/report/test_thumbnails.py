"""Test thumbnails: the image that a medoid's text describes, small, and damaged images left out."""

from __future__ import annotations

import io
import logging
import sqlite3
import sys
from contextlib import closing
from uuid import UUID

import numpy as np
import pytest

from panic_tda.errors import PanicTdaError
from panic_tda.report import thumbnails
from panic_tda.report.thumbnails import read_thumbnails, shrink
from panic_tda.storage.write.saving import save_or_write_pending
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.exported import latest
from tests.field_files import FieldSpec
from tests.snapshots import opened
from tests.storage.test_query_plans import plan, queries, scans_rows, statements

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (extra report)")

COLOURS = {0: (200, 30, 30), 1: (30, 200, 30), 2: (30, 30, 200), 3: (200, 200, 30)}
LABELS = range(4)


def picture(
    colour: tuple[int, ...], size: tuple[int, int] = (400, 300), kind: str = "WEBP", **more: object
) -> bytes:
    """Make an image as the pipeline stores it: one colour, lossless."""
    data = io.BytesIO()
    mode = "RGBA" if len(colour) == 4 else "RGB"
    Image.new(mode, size, colour).save(data, kind, lossless=True, **more)
    return data.getvalue()


def describe_image(data: bytes) -> tuple[str, tuple[int, int], np.ndarray]:
    with Image.open(io.BytesIO(data)) as image:
        return (
            image.format,
            image.size,
            np.asarray(image.convert("RGB"), dtype=int).reshape(-1, 3).mean(axis=0),
        )


@pytest.fixture
def images(upgraded: MakeFile) -> tuple[UpgradedFile, dict[int, str]]:
    """A clustering whose medoids' texts describe images of four colours, and the ids of those."""
    file = upgraded(FieldSpec(runs=6, length=40))
    finished = make_finished(ids_of(file))
    save_or_write_pending(file.database, finished)
    by_id = {embedding.id: embedding for embedding in file.facts.of("Nomic")}
    described = {}
    for label, row in finished.medoids.items():
        invocation = by_id[finished.ids[row].decode()].invocation
        assert invocation is not None
        assert invocation.input_id is not None
        described[label] = invocation.input_id
    assert list(described) == list(LABELS)
    for label, identity in described.items():
        replace_image(file, identity, picture(COLOURS[label]))
    return file, described


def replace_image(file: UpgradedFile, invocation: str, data: bytes | None) -> None:
    with opened(file.path) as connection:
        result = connection.execute(
            "UPDATE invocation SET output_image_data = ? WHERE id = ? AND type = 'IMAGE'", (data, invocation)
        )
        assert result.rowcount == 1


def test_each_cluster_has_the_image_that_its_medoid_describes(
    images: tuple[UpgradedFile, dict[int, str]],
) -> None:
    database = images[0].database
    thumbnails = read_thumbnails(database, latest(database), LABELS)
    assert list(thumbnails) == list(LABELS)
    for label, data in thumbnails.items():
        kind, size, mean = describe_image(data)
        assert (kind, size) == ("WEBP", (128, 96))
        assert np.abs(mean - COLOURS[label]).max() < 8
        assert len(data) < 1000
    assert list(read_thumbnails(database, latest(database), [3, 1])) == [1, 3]
    assert describe_image(read_thumbnails(database, latest(database), [2], size=40)[2])[1] == (40, 30)


def test_a_medoid_that_is_an_image_is_shown_itself(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(vision_models=("NomicVision",)))
    finished = make_finished(ids_of(file, "NomicVision"), model="NomicVision")
    save_or_write_pending(file.database, finished)
    by_id = {embedding.id: embedding for embedding in file.facts.of("NomicVision")}
    for label, row in finished.medoids.items():
        invocation = by_id[finished.ids[row].decode()].invocation
        assert invocation is not None
        replace_image(file, invocation.id, picture(COLOURS[label]))
    thumbnails = read_thumbnails(file.database, latest(file.database), LABELS)
    assert {
        label: int(describe_image(data)[2].argmax()) for label, data in thumbnails.items() if label < 3
    } == {
        0: 0,
        1: 1,
        2: 2,
    }


BAD = {
    "missing": None,
    "empty": b"",
    "cut": picture((1, 2, 3))[:30],
    "png": picture((1, 2, 3), kind="PNG"),
    "text": b"RIFF\x00\x00\x00\x00WEBPVP8L and then nothing that is one",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_damaged_images_are_left_out_and_named(
    images: tuple[UpgradedFile, dict[int, str]], data: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    file, described = images
    replace_image(file, described[1], data)
    with caplog.at_level(logging.WARNING, logger="panic_tda"):
        thumbnails = read_thumbnails(file.database, latest(file.database), LABELS)
    assert list(thumbnails) == [0, 2, 3]
    (line,) = caplog.messages
    assert line.startswith(f"cluster 1 has no thumbnail: image {UUID(described[1])}: ")


@pytest.mark.parametrize("bound", [300 * 400 - 1, 300 * 400 // 3])
def test_an_image_far_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, bound: int) -> None:
    # Up to twice the bound Pillow would only warn.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", bound)
    with pytest.raises(ValueError, match="DecompressionBomb"):
        shrink(picture((1, 2, 3)), 128)


def test_a_deleted_image_has_no_thumbnail(
    images: tuple[UpgradedFile, dict[int, str]],
) -> None:
    file, described = images
    with opened(file.path) as connection:
        connection.execute("DELETE FROM invocation WHERE id = ?", (described[2],))
    assert list(read_thumbnails(file.database, latest(file.database), LABELS)) == [0, 1, 3]


def test_the_largest_clusters_have_thumbnails(
    images: tuple[UpgradedFile, dict[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "MOST", 2)
    database = images[0].database
    assert list(read_thumbnails(database, latest(database), [3, 2, 1, 0])) == [0, 1]
    assert read_thumbnails(database, latest(database), []) == {}


@pytest.mark.parametrize("colour", [(200, 30, 30), (200, 30, 30, 255)], ids=["opaque", "transparent"])
def test_small_images_keep_their_size_and_lose_their_metadata(colour: tuple[int, ...]) -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    profile = b"a profile " * 100
    data = picture(colour, (50, 20), exif=exif, icc_profile=profile)
    assert b"where I live" in data
    assert profile in data
    small = shrink(data, 128)
    assert describe_image(small)[1] == (50, 20)
    assert b"where I live" not in small
    assert profile not in small


def test_no_query_scans_rows(images: tuple[UpgradedFile, dict[int, str]]) -> None:
    file = images[0]
    with statements() as executed:
        read_thumbnails(file.database, latest(file.database), LABELS)
    reading = [sql for sql in queries(executed) if "output_image_data" in sql]
    assert len(reading) == len(LABELS)
    with closing(sqlite3.connect(file.path)) as connection:
        steps = [step for sql in queries(executed) for step in plan(connection, sql)]
    assert not [step for step in steps if scans_rows(step)]


def test_without_pillow_it_says_what_to_install(
    images: tuple[UpgradedFile, dict[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(PanicTdaError, match=r"pip install '\.\[report\]'"):
        read_thumbnails(images[0].database, latest(images[0].database), LABELS)

"""Test the images of clusters in a page, with and without Pillow."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from panic_tda.main import main
from panic_tda.storage.write.saving import save_or_write_pending
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.field_files import FieldSpec
from tests.report.browser import Opened
from tests.snapshots import opened as raw

pytest.importorskip("jinja2", reason="Jinja2 is not installed (extra report)")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (extra report)")

MEAN = """selector => {
    const image = document.querySelector(selector);
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 1;
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0, 1, 1);
    return [image.naturalWidth, image.naturalHeight, ...context.getImageData(0, 0, 1, 1).data];
}"""
"""The size of an image, and its mean colour."""
NEAR = 12
"""That a colour may be changed by, on its way through WEBP; those of two images are at least 40 apart."""


def colour_of(number: int) -> tuple[int, int, int]:
    """Return a colour of its own for each of 216 numbers."""
    return (10 + 46 * (number % 6), 10 + 46 * (number // 6 % 6), 10 + 46 * (number // 36))


@pytest.fixture
def field(upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch) -> tuple[UpgradedFile, dict[str, Any]]:
    """A clustering of texts whose images all have different colours, and the colour of each image."""
    monkeypatch.setitem(sys.modules, "umap", None)
    file = upgraded(FieldSpec(runs=6, length=40))
    save_or_write_pending(file.database, make_finished(ids_of(file)))
    with raw(file.path) as connection:
        ids = [
            image_id
            for (image_id,) in connection.execute(
                "SELECT id FROM invocation WHERE type = 'IMAGE' ORDER BY id"
            )
        ]
        assert 100 < len(ids) <= 216
        colours = {image_id: colour_of(number) for number, image_id in enumerate(ids)}
        for image_id, colour in colours.items():
            data = io.BytesIO()
            Image.new("RGB", (300, 150), colour).save(data, "WEBP", lossless=True)
            connection.execute(
                "UPDATE invocation SET output_image_data = ? WHERE id = ?", (data.getvalue(), image_id)
            )
    return file, colours


def report(file: UpgradedFile, folder: Path) -> Result:
    return CliRunner().invoke(
        main, ["report-clustering", "--db", str(file.path), "-o", str(folder / "page.html")]
    )


def test_a_cluster_shows_the_image_that_its_medoid_describes(
    field: tuple[UpgradedFile, dict[str, Any]], tmp_path: Path, opened: Callable[..., Opened]
) -> None:
    file, colours = field
    assert report(file, tmp_path).exit_code == 0
    page = opened(tmp_path / "page.html")
    with raw(file.path) as connection:
        rows = connection.execute(
            "SELECT label, output_text, input_invocation_id FROM cluster "
            "JOIN embedding ON embedding.id = medoid_embedding_id "
            "JOIN invocation ON invocation.id = invocation_id ORDER BY label"
        ).fetchall()
    assert len(rows) == 4
    for (label, text, image), (x, y) in zip(rows, page.medoids(), strict=True):
        page.page.mouse.move(x, y)
        page.until("document.querySelector('.tip img')?.complete")
        pointed = page.evaluate(MEAN, ".tip img")
        assert page.page.locator(".tip").inner_text().startswith(text)
        page.evaluate("label => document.querySelector(`tr[data-label='${label}']`).click()", label)
        page.until("document.querySelector('#card img')?.complete")
        assert page.page.locator("#card blockquote").inner_text() == text
        assert page.evaluate(MEAN, "#card img") == pointed
        width, height, *mean, opaque = pointed
        assert (width, height, opaque) == (128, 64, 255)
        assert max(abs(a - b) for a, b in zip(mean, colours[image], strict=True)) < NEAR
    assert page.messages == []
    assert {url.partition(":")[0] for url in page.requested} <= {"file", "data"}


def test_without_pillow_the_page_says_so(
    field: tuple[UpgradedFile, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    opened: Callable[..., Opened],
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    result = report(field[0], tmp_path)
    assert result.exit_code == 0
    assert "pip install '.[report]'" in result.stderr
    page = opened(tmp_path / "page.html", "#cluster=0")
    notes = " ".join(page.cells(".note"))
    assert "no images: thumbnails need Pillow: pip install '.[report]'" in notes
    assert page.page.locator("#card blockquote").is_visible()
    assert page.page.locator("img").count() == 0
    assert page.messages == []

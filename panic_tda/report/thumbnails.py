"""Small pictures of clusters: the image that each medoid's text describes."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable

from panic_tda.errors import PanicTdaError
from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database
from panic_tda.storage.read.medoids import find_medoid_images, read_image
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.wording import install_extra

SIZE = 128
MOST = 300
"""Clusters that get one: a thumbnail takes about 4 kB, and so they take about 1 MB of a page."""
QUALITY = 75

_log = logging.getLogger(__name__)


class NoPillow(PanicTdaError):
    """The package that reads images is missing."""


def read_thumbnails(
    database: Database,
    source: ClusteringSummary,
    labels: Iterable[int],
    *,
    size: int = SIZE,
    progress: Progress | None = None,
) -> dict[int, bytes]:
    """Make a thumbnail for each cluster whose medoid describes, or is, an image.

    Parameters
    ----------
    database : Database
        Read in one transaction; one image at a time is in memory.
    source : ClusteringSummary
        One that is stored.
    labels : iterable of int
        Of the clusters; only the `MOST` largest of them get one.
    size : int
        Longer side in pixels at most; no image is enlarged.
    progress : Progress, optional
        Told the images read.

    Returns
    -------
    dict of int to bytes
        WEBP by label, without any of the metadata. An image that is missing, damaged or too large to be
        opened (Pillow's own bound, 89 million pixels) has none, and the log says so.

    Raises
    ------
    NoPillow
        It is not installed, and there are images.
    """
    progress = progress or Silent()
    # The largest cluster is 0.
    largest = sorted(set(labels))[:MOST]
    thumbnails: dict[int, bytes] = {}
    with database.reading() as connection:
        found = find_medoid_images(connection, source.id, largest)
        if found:
            _require_pillow()
        progress.phase("make thumbnails", total=len(found))
        for label, invocation in found.items():
            data = read_image(connection, invocation)
            try:
                if data is None:
                    raise ValueError("it is not stored")
                thumbnails[label] = shrink(data, size)
            except ValueError as error:
                _log.warning("cluster %d has no thumbnail: image %s: %s", label, invocation, error)
            progress.advance(1)
    return thumbnails


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401 (said now, not at the first image)
    except ImportError as error:
        raise NoPillow(f"thumbnails need Pillow: {install_extra('report')}") from error


def shrink(data: bytes, size: int) -> bytes:
    """Make a WEBP of an image with at most `size` pixels a side.

    Parameters
    ----------
    data : bytes
        A WEBP, which is what the pipeline stores.
    size : int
        Longer side in pixels.

    Raises
    ------
    ValueError
        It is no such image, damaged, or far too large.
    """
    from PIL import Image

    thumbnail = io.BytesIO()
    try:
        with warnings.catch_warnings():
            # Pillow warns of an image too large, and only raises at twice that size.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
                image.thumbnail((size, size), Image.Resampling.LANCZOS)
                image.convert("RGB").save(thumbnail, "WEBP", quality=QUALITY, method=6, icc_profile=b"")
    except (OSError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return thumbnail.getvalue()

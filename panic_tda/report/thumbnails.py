"""Make small images of clusters: the image that each medoid's text describes."""

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
"""Maximum number of thumbnails. One takes about 4 kB, all of them about 1 MB of a page."""
QUALITY = 75

_log = logging.getLogger(__name__)


class NoPillow(PanicTdaError):
    """Pillow, which reads images, is not installed."""


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
        Database of the clustering, read in one transaction. One image at a time is in memory.
    source : ClusteringSummary
        A stored clustering.
    labels : iterable of int
        Labels of clusters; the `MOST` largest of these clusters get a thumbnail.
    size : int
        Maximum length of the longer side in pixels; no image is enlarged.
    progress : Progress, optional
        Receives the number of images read.

    Returns
    -------
    dict of int to bytes
        WEBP images without metadata, by label. There is none for an image that is missing, damaged or too
        large (Pillow's limit, 89 million pixels); the log names the cluster.

    Raises
    ------
    NoPillow
        There are images, and Pillow is not installed.
    """
    progress = progress or Silent()
    # The largest cluster is 0.
    largest = sorted(set(labels))[:MOST]
    thumbnails: dict[int, bytes] = {}
    with database.reading() as connection:
        images = find_medoid_images(connection, source.id, largest)
        if images:
            _require_pillow()
        progress.phase("make thumbnails", total=len(images))
        for label, invocation in images.items():
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
        import PIL.Image  # noqa: F401 (fails here, not at the first image)
    except ImportError as error:
        raise NoPillow(f"thumbnails need Pillow: {install_extra('report')}") from error


def shrink(data: bytes, size: int) -> bytes:
    """Shrink a WEBP image to at most `size` pixels per side.

    Parameters
    ----------
    data : bytes
        A WEBP image, the format that the pipeline stores.
    size : int
        Maximum length of the longer side in pixels.

    Raises
    ------
    ValueError
        The bytes are not a WEBP image, are damaged, or have too many pixels.
    """
    from PIL import Image

    thumbnail = io.BytesIO()
    try:
        with warnings.catch_warnings():
            # Pillow only warns about an image above its limit; it raises at twice the limit.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
                image.thumbnail((size, size), Image.Resampling.LANCZOS)
                image.convert("RGB").save(thumbnail, "WEBP", quality=QUALITY, method=6, icc_profile=b"")
    except (OSError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return thumbnail.getvalue()

"""Compute the colours of clusters, as the page does (`colours.js`): seven hues in three lightnesses.

References
----------
.. [1] Ottosson (2020). A perceptual color space for image processing. https://bottosson.github.io/posts/oklab/
.. [2] Okabe and Ito (2008). Color universal design. https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

import math

# Lightness, chroma and hue (OKLCH [1]_) of blue, orange, green, purple, sky, vermilion and yellow [2]_.
_HUES = (
    (0.55, 0.145, 248),
    (0.72, 0.15, 62),
    (0.62, 0.125, 165),
    (0.69, 0.115, 345),
    (0.74, 0.11, 230),
    (0.61, 0.175, 42),
    (0.8, 0.15, 100),
)
_LEVELS = (0.0, -0.13, 0.1)


def cluster_colour(label: int, *, dark: bool) -> str:
    """Return the colour of a cluster as `#rrggbb`, on a light or a dark background."""
    lightness, chroma, hue = _HUES[label % len(_HUES)]
    level = _LEVELS[label // len(_HUES) % len(_LEVELS)]
    lit = min(0.86, max(0.38, lightness + level + (0.06 if dark else 0.0)))
    return _to_hex(lit, chroma * (0.8 if level > 0 else 1.0), math.radians(hue))


def _to_hex(lightness: float, chroma: float, hue: float) -> str:
    """Convert OKLCH to sRGB with Ottosson's matrices."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.707614701 * short,
    )
    return "#" + "".join(f"{_to_byte(min(1.0, max(0.0, value))):02x}" for value in linear)


def _to_byte(value: float) -> int:
    encoded = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
    # Rounds like JavaScript's Math.round.
    return math.floor(255 * encoded + 0.5)

"""Choose installed fonts for the texts of a figure, and find the characters that no font has."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

_FIRST = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans", "Noto Sans Arabic", "Noto Emoji", "Symbola")
"""Preferred families, in this order. The first one comes with Matplotlib."""
_UNSUITABLE = ("Last Resort", "cm", "STIX")
"""Prefixes of families that draw a box for every character, or map characters to other signs."""


def find_fonts(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Choose font families for texts.

    Parameters
    ----------
    texts : iterable of str
        All texts of the figure.

    Returns
    -------
    families : list of str
        Installed families; a character is drawn with the first one that has it.
    missing : list of str
        Characters that no installed font has.
    """
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    families = [name for name in _FIRST if name in installed]
    missing = {character for text in texts for character in text if not character.isspace()}
    for family in families:
        missing -= _read_characters(family)
    others = (name for name in installed if name not in families and not name.startswith(_UNSUITABLE))
    # Families without serifs first, like the preferred ones. Fonts are opened only if characters are missing.
    for family in sorted(others, key=lambda name: ("Sans" not in name, name)) if missing else ():
        if not missing:
            break
        if available := missing & _read_characters(family):
            families.append(family)
            missing -= available
    return families, sorted(missing)


@cache
def _read_characters(family: str) -> frozenset[str]:
    """Return the characters of a family; an empty set if its file cannot be used."""
    from matplotlib import font_manager, ft2font

    try:
        file = font_manager.findfont(
            font_manager.FontProperties(family=family), fallback_to_default=False, rebuild_if_missing=False
        )
        font = ft2font.FT2Font(file)
        # Bitmap fonts have only fixed sizes and raise here.
        font.set_size(12, 72)
        return frozenset(map(chr, font.get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()

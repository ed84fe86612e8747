"""Which installed fonts the texts of a figure take, and which of their characters none has."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

_FIRST = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans", "Noto Sans Arabic", "Noto Emoji", "Symbola")
"""Asked in this order before all others. The first one comes with Matplotlib."""
_UNSUITABLE = ("Last Resort", "cm", "STIX")
"""Beginnings of families that have a box for everything, or other signs at the places of characters."""


def find_fonts(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Choose font families for texts.

    Parameters
    ----------
    texts : iterable of str
        Whatever is written.

    Returns
    -------
    families : list of str
        Installed ones; where one has no sign for a character, the next is asked.
    missing : list of str
        Characters that no installed font has.
    """
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    families = [name for name in _FIRST if name in installed]
    missing = {character for text in texts for character in text if not character.isspace()}
    for family in families:
        missing -= _characters(family)
    others = (name for name in installed if name not in families and not name.startswith(_UNSUITABLE))
    # Without serifs first, as the others are; all of them are only opened where something is missing.
    for family in sorted(others, key=lambda name: ("Sans" not in name, name)) if missing else ():
        if not missing:
            break
        if found := missing & _characters(family):
            families.append(family)
            missing -= found
    return families, sorted(missing)


@cache
def _characters(family: str) -> frozenset[str]:
    """Return the characters that a family has signs for; none where its file cannot be drawn from."""
    from matplotlib import font_manager, ft2font

    try:
        file = font_manager.findfont(
            font_manager.FontProperties(family=family), fallback_to_default=False, rebuild_if_missing=False
        )
        font = ft2font.FT2Font(file)
        # Fonts that are made of images have no sizes but their own.
        font.set_size(12, 72)
        return frozenset(map(chr, font.get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()

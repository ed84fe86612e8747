"""Name clusters by the words that set their texts apart from those of the others.

References
----------
.. [1] Grootendorst (2022). BERTopic: Neural topic modeling with a class-based TF-IDF procedure.
   arXiv:2203.05794. https://doi.org/10.48550/arXiv.2203.05794
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np

N_WORDS = 4
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


class WordCounts:
    """Counter of the words of the distinct texts of each cluster; no text is stored.

    A text counts once per cluster. Otherwise a run that repeats one text would decide the words.
    """

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()
        self._counts: dict[int, Counter[str]] = {}

    def add(self, label: int, text: str) -> None:
        """Count the words of a text of a cluster."""
        key = label, hash(text)
        if key not in self._seen:
            self._seen.add(key)
            self._counts.setdefault(label, Counter()).update(split_words(text))

    def name_clusters(self, n_words: int = N_WORDS) -> dict[int, tuple[str, ...]]:
        """Return the words of each cluster by label, see `weigh_words`."""
        return weigh_words(self._counts, n_words)


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case: letters, with apostrophes and hyphens between them.

    >>> split_words("A dog's tail, black-and-white; 2 cats")
    ['a', "dog's", 'tail', 'black-and-white', 'cats']
    """
    return _WORD.findall(text.lower())


def weigh_words(
    counts: Mapping[int, Mapping[str, int]], n_words: int = N_WORDS
) -> dict[int, tuple[str, ...]]:
    """Return the words of largest class-based TF-IDF of each cluster [1]_.

    Parameters
    ----------
    counts : mapping of int to (mapping of str to int)
        Counts of each word in the distinct texts of each cluster.
    n_words : int
        Maximum number of words.

    Returns
    -------
    dict of int to tuple of str
        The largest weights first, ties in alphabetical order.

    Notes
    -----
    The weight of a word is W = tf · log(1 + A / f), with tf its share of the words of the cluster, f its
    count in all clusters, and A the mean number of words of a cluster. Words of one letter are left out.
    """
    if not counts:
        return {}
    totals: Counter[str] = Counter()
    for words in counts.values():
        totals.update(words)
    mean = sum(totals.values()) / len(counts)
    names = {}
    for label, words in sorted(counts.items()):
        # The divisor of tf is the same for all words of a cluster and does not change their order.
        weights = {
            word: count * float(np.log1p(mean / totals[word]))
            for word, count in words.items()
            if len(word) > 1
        }
        names[label] = tuple(sorted(weights, key=lambda word: (-weights[word], word))[:n_words])
    return names

"""Test the words that name clusters: weights by hand and distinct texts."""

from __future__ import annotations

import math

from panic_tda.insight.keywords import WordCounts, split_words, weigh_words


def test_weights_match_a_hand_computed_example() -> None:
    counts = {0: {"photo": 4, "dog": 3, "grass": 1}, 1: {"photo": 5, "cat": 3}}
    mean = 16 / 2
    by_hand = {
        "photo": 4 * math.log(1 + mean / 9),
        "dog": 3 * math.log(1 + mean / 3),
        "grass": 1 * math.log(1 + mean / 1),
    }
    assert weigh_words(counts, 3)[0] == tuple(sorted(by_hand, key=by_hand.__getitem__, reverse=True))
    assert weigh_words(counts, 1) == {0: ("dog",), 1: ("cat",)}
    assert weigh_words({}) == {}


def test_repeated_texts_count_once() -> None:
    texts = ["a red balloon"] * 50 + ["a dog on grass", "a dog in snow", "a cat on a sofa", "a cat in a box"]
    counts = WordCounts()
    for text, label in zip(texts, [0] * 52 + [1] * 2, strict=True):
        counts.add(label, text)
    names = counts.name_clusters(2)
    assert names[0][0] == "dog"
    assert names[1][0] == "cat"


def test_ties_are_alphabetical() -> None:
    assert weigh_words({3: {"zebra": 1, "apple": 1}}) == {3: ("apple", "zebra")}


def test_words_of_every_script_are_found() -> None:
    assert split_words("Ein Hund läuft; 風船 e l'été — 3D") == [
        "ein",
        "hund",
        "läuft",
        "風船",
        "e",
        "l'été",
        "d",
    ]
    counts = WordCounts()
    counts.add(0, "1 2 3")
    assert counts.name_clusters() == {0: ()}

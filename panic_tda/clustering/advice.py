"""Suggestions for a doubtful clustering: settings that give better clusters on the same tree."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import NamedTuple

from panic_tda.clustering.cuts import Cut, count_rows, cut_all
from panic_tda.doubts import Doubt, Wording, find_doubts, is_nearly_all, name_setting
from panic_tda.errors import InvalidParameter
from panic_tda.parameters import EPSILON, SELECTION_METHODS, ClusteringParameters
from panic_tda.records import COSINE, EUCLIDEAN, ClusteringRecord, EffectiveParameters
from panic_tda.types import SpanningTree
from panic_tda.wording import pluralize

_EPSILON_FACTORS = (0.9, 1.1, 0.75, 1.25, 0.5, 1.5, 2.0)
_EPSILONS_FROM_ZERO = (0.1, 0.2)
_SIZE_FACTORS = (0.5, 2.0, 0.25, 4.0)
_MAX_SUGGESTIONS = 3

_NAMES = tuple(field.name for field in fields(EffectiveParameters))
_PARAMETER_NAMES = {"cluster_selection_epsilon": "epsilon", "cluster_selection_method": "selection_method"}
"""Names of `ClusteringParameters` by the stored names that differ from them."""

_log = logging.getLogger(__name__)


class Advice(NamedTuple):
    """Better settings for the tree of a clustering.

    Attributes
    ----------
    n_evaluated : int
        Number of settings that were evaluated.
    cuts : list of Cut
        The best settings, at most three, that with the fewest outliers first.
    """

    n_evaluated: int
    cuts: list[Cut]


def warn_if_doubtful(
    record: ClusteringRecord,
    tree: SpanningTree | None,
    *,
    name: str = "",
    wording: Wording = "parameters",
    remedy: str = "",
) -> list[Doubt]:
    """Log why a clustering is doubtful, and which evaluated settings are better.

    Parameters
    ----------
    record : ClusteringRecord
        The record of the clustering.
    tree : SpanningTree or None
        The tree of the clustering; None if there were too few rows for a tree.
    name : str
        The embedding model, if there are several.
    wording : {"options", "parameters"}
        Whether settings are named as options of the commands or as parameters in Python.
    remedy : str
        A sentence that says how to store a suggested setting; logged if there is a suggestion.
    """
    doubts = find_doubts(record, wording=wording)
    if not doubts:
        return doubts
    sentences = [doubt.sentence for doubt in doubts]
    if tree is None:
        sentences.append(
            f"min_cluster_size {record.min_cluster_size} or min_samples {record.min_samples} is more than "
            "there are rows."
        )
    else:
        try:
            advice = evaluate_alternatives(tree, record)
        except MemoryError:
            # The clustering itself is finished and must not fail here.
            sentences.append("There was too little memory to evaluate other settings.")
        else:
            sentences.append(describe(advice, record, wording))
            if advice.cuts and remedy:
                sentences.append(remedy)
    _log.warning("%s%s", name and f"{name}: ", " ".join(sentences))
    return doubts


def evaluate_alternatives(tree: SpanningTree, record: ClusteringRecord) -> Advice:
    """Cut a tree at settings near those of a doubtful clustering, and choose the better ones.

    Notes
    -----
    A setting is better if it meets two conditions. It finds clusters, and none of them is the root cluster or
    has more than 90 % of the rows. It has fewer outliers than the clustering, or the clustering itself has
    such a large cluster. If the clustering has no clusters and no setting is better, every setting that finds
    clusters counts as better.

    The settings differ in `allow_single_cluster`, epsilon, `min_cluster_size`, the selection method or
    `max_cluster_size`. Of each kind, the one with the fewest outliers is chosen. At most 27 settings are
    evaluated.
    """
    effective = EffectiveParameters(**{name: getattr(record, name) for name in _NAMES})
    n = len(tree.height) + 1
    kinds = _list_alternatives(effective, n, record.metric or COSINE)
    cuts = cut_all(tree, [setting for kind in kinds for setting in kind], count_rows)
    by_kind = [[next(cuts) for _ in kind] for kind in kinds]

    def is_better(cut: Cut) -> bool:
        return (
            cut.n_clusters > 0
            and not _is_dominated(cut.root_selected, cut.largest, n)
            and (
                _is_dominated(bool(record.root_selected), record.largest_cluster_size or 0, n)
                or cut.n_outliers < record.n_outliers
            )
        )

    better = _choose_best_of_each(by_kind, is_better)
    if not better and not record.n_clusters:
        better = _choose_best_of_each(by_kind, lambda cut: cut.n_clusters > 0)
    return Advice(sum(map(len, by_kind)), better)


def describe(advice: Advice, record: ClusteringRecord, wording: Wording) -> str:
    """Return a sentence that names the better settings with their numbers, or says that none is better."""
    n = record.n_embeddings
    tried = f"{advice.n_evaluated} other settings were evaluated on the same tree"
    if not record.n_clusters:
        finding, none = "these find clusters", "none finds a cluster"
    elif _is_dominated(bool(record.root_selected), record.largest_cluster_size or 0, n):
        finding = "these find clusters of at most 90 % of the rows"
        none = "none finds clusters of at most 90 % of the rows"
    else:
        finding = "these have fewer outliers"
        none = "none has fewer outliers without one cluster of more than 90 % of the rows"
    if not advice.cuts:
        return f"{tried}: {none}."
    named = (
        f"{name_change(cut.parameters, record, wording)} gives {cut.n_clusters:,} "
        f"{pluralize(cut.n_clusters, 'cluster')} and {cut.n_outliers:,} "
        f"{pluralize(cut.n_outliers, 'outlier')} "
        f"({100 * cut.n_outliers / n:.1f} %)"
        for cut in advice.cuts
    )
    return f"{tried}; {finding}: {'; '.join(named)}."


def name_change(setting: EffectiveParameters, base: EffectiveParameters, wording: Wording) -> str:
    """Return the differences of a setting from a base setting, as a user types them."""
    changes = [
        name_setting(_PARAMETER_NAMES.get(name, name), getattr(setting, name), wording)
        for name in _NAMES
        if getattr(setting, name) != getattr(base, name)
    ]
    return (" " if wording == "options" else ", ").join(changes)


def _is_dominated(root_selected: bool, largest: int, n_rows: int) -> bool:
    return root_selected or is_nearly_all(largest, n_rows)


def _choose_best_of_each(by_kind: Sequence[Sequence[Cut]], accept: Callable[[Cut], bool]) -> list[Cut]:
    accepted = ([cut for cut in cuts if accept(cut)] for cuts in by_kind)
    best = [min(cuts, key=_n_outliers) for cuts in accepted if cuts]
    return sorted(best, key=_n_outliers)[:_MAX_SUGGESTIONS]


def _n_outliers(cut: Cut) -> int:
    return cut.n_outliers


def _list_alternatives(
    effective: EffectiveParameters, n_rows: int, metric: str
) -> list[list[EffectiveParameters]]:
    """Return valid settings near a setting, one list for each kind of change.

    If a single cluster is allowed, epsilon is also changed without it, because the single cluster is often
    the reason for the doubt.
    """
    method, limit = effective.cluster_selection_method, effective.max_cluster_size
    other_single = replace(effective, allow_single_cluster=not effective.allow_single_cluster)
    bases = [other_single, effective] if effective.allow_single_cluster else [effective]
    other_methods = [
        replace(
            base,
            cluster_selection_method=new_method,
            max_cluster_size=None if new_method == "leaf" else limit,
        )
        for new_method in SELECTION_METHODS
        if new_method != method
        for base in (effective, other_single)
    ]
    kinds = [
        [other_single],
        [
            replace(base, cluster_selection_epsilon=value)
            for base in bases
            for value in _list_epsilons(effective.cluster_selection_epsilon, metric)
        ],
        [
            replace(effective, min_cluster_size=value)
            for value in _list_sizes(effective.min_cluster_size, n_rows)
        ],
        other_methods,
        [replace(effective, max_cluster_size=None)],
    ]
    return [
        [setting for setting in kind if setting != effective and _is_valid(setting, metric)] for kind in kinds
    ]


def _list_epsilons(epsilon: float, metric: str) -> list[float]:
    # Few digits, so that the value in the message is the one that was evaluated.
    near = [float(f"{factor * epsilon:.3g}") for factor in _EPSILON_FACTORS]
    if metric == EUCLIDEAN:
        # No value is suited to the units of all rows.
        return list(dict.fromkeys([*near, 0.0] if epsilon else []))
    near = [min(2.0, value) for value in near]
    return list(dict.fromkeys([*near, EPSILON, 0.0] if epsilon else [*_EPSILONS_FROM_ZERO, EPSILON]))


def _list_sizes(size: int, n_rows: int) -> list[int]:
    near = [max(2, round(factor * size)) for factor in _SIZE_FACTORS]
    default = ClusteringParameters().resolve(n_rows).min_cluster_size
    return [value for value in dict.fromkeys([*near, default]) if value <= n_rows]


def _is_valid(setting: EffectiveParameters, metric: str) -> bool:
    values = {_PARAMETER_NAMES.get(name, name): getattr(setting, name) for name in _NAMES}
    if metric == EUCLIDEAN:
        # It follows from the rows.
        del values["distance_floor"]
    try:
        ClusteringParameters(**values, metric=metric)
    except InvalidParameter:
        return False
    return True

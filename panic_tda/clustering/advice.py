"""Which settings find better clusters in the tree of a doubtful clustering: evaluated, never guessed."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from typing import TYPE_CHECKING, NamedTuple

from panic_tda.clustering.cuts import Cut, count_rows, cut_all
from panic_tda.doubts import Doubt, Wording, find_doubts, is_nearly_all, name_setting
from panic_tda.errors import InvalidParameter
from panic_tda.parameters import EPSILON, SELECTION_METHODS, ClusteringParameters, EffectiveParameters
from panic_tda.wording import pluralize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from panic_tda.parameters import ClusteringRecord
    from panic_tda.types import SpanningTree

_EPSILON_FACTORS = (0.9, 1.1, 0.75, 1.25, 0.5, 1.5, 2.0)
_EPSILONS_FROM_ZERO = (0.1, 0.2)
_SIZE_FACTORS = (0.5, 2.0, 0.25, 4.0)
_MOST_NAMED = 3

_NAMES = tuple(field.name for field in fields(EffectiveParameters))
_ASKED_NAMES = {"cluster_selection_epsilon": "epsilon", "cluster_selection_method": "selection_method"}
"""Stored names that are not those of `ClusteringParameters`."""

_log = logging.getLogger(__name__)


class Advice(NamedTuple):
    """Clusters that other settings give in the tree of a clustering.

    Attributes
    ----------
    n_evaluated : int
        Settings that were evaluated.
    cuts : list of Cut
        Those worth naming, at most three, the fewest outliers first.
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
        Of the clustering.
    tree : SpanningTree or None
        The tree that it was cut from; None where there were too few rows for one.
    name : str
        The embedding model, where there are several.
    wording : {"options", "parameters"}
        Whether settings are named as options of the commands or as parameters in Python.
    remedy : str
        How a named setting is stored; said where one is named.
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
            # The clustering itself is finished, and must not fail by this.
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
    A setting is better when it finds clusters, none of them the root cluster or one of more than 90 % of
    the rows, and has fewer outliers than the clustering, unless that one is dominated by such a cluster.
    Where the clustering has no clusters and no setting is better, those that find any count. Of each kind of
    change (the single cluster, epsilon, `min_cluster_size`, the method, no largest size) the one with the
    fewest outliers is chosen. At most 27 settings are evaluated.
    """
    effective = EffectiveParameters(**{name: getattr(record, name) for name in _NAMES})
    n = len(tree.height) + 1
    kinds = _alternatives(effective, n)
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

    better = _best_of_each(by_kind, is_better)
    if not better and not record.n_clusters:
        better = _best_of_each(by_kind, lambda cut: cut.n_clusters > 0)
    return Advice(sum(map(len, by_kind)), better)


def describe(advice: Advice, record: ClusteringRecord, wording: Wording) -> str:
    """Return one sentence that names the better settings with their numbers, or says that none is better."""
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
    """Write in what a setting differs from another one, as it is typed."""
    changes = [
        name_setting(_ASKED_NAMES.get(name, name), getattr(setting, name), wording)
        for name in _NAMES
        if getattr(setting, name) != getattr(base, name)
    ]
    if setting.min_cluster_size != base.min_cluster_size:
        # Its default follows min_cluster_size; the tree was built with this number.
        changes.append(name_setting("min_samples", base.min_samples, wording))
    return (" " if wording == "options" else ", ").join(changes)


def _is_dominated(root_selected: bool, largest: int, n_rows: int) -> bool:
    return root_selected or is_nearly_all(largest, n_rows)


def _best_of_each(by_kind: Sequence[Sequence[Cut]], accept: Callable[[Cut], bool]) -> list[Cut]:
    accepted = ([cut for cut in cuts if accept(cut)] for cuts in by_kind)
    best = [min(cuts, key=_n_outliers) for cuts in accepted if cuts]
    return sorted(best, key=_n_outliers)[:_MOST_NAMED]


def _n_outliers(cut: Cut) -> int:
    return cut.n_outliers


def _alternatives(effective: EffectiveParameters, n_rows: int) -> list[list[EffectiveParameters]]:
    """Return valid settings near one, by the kind of change.

    Where a single cluster is allowed, epsilon changes without it too: it is what often stands in the way.
    """
    method, limit = effective.cluster_selection_method, effective.max_cluster_size
    other_single = replace(effective, allow_single_cluster=not effective.allow_single_cluster)
    bases = [other_single, effective] if effective.allow_single_cluster else [effective]
    others = [
        replace(base, cluster_selection_method=other, max_cluster_size=None if other == "leaf" else limit)
        for other in SELECTION_METHODS
        if other != method
        for base in (effective, other_single)
    ]
    kinds = [
        [other_single],
        [
            replace(base, cluster_selection_epsilon=value)
            for base in bases
            for value in _epsilons(effective.cluster_selection_epsilon)
        ],
        [replace(effective, min_cluster_size=value) for value in _sizes(effective.min_cluster_size, n_rows)],
        others,
        [replace(effective, max_cluster_size=None)],
    ]
    return [[setting for setting in kind if setting != effective and _is_valid(setting)] for kind in kinds]


def _epsilons(epsilon: float) -> list[float]:
    # Few digits: what is named has to be what was evaluated.
    near = [min(2.0, float(f"{factor * epsilon:.3g}")) for factor in _EPSILON_FACTORS]
    return list(dict.fromkeys([*near, EPSILON, 0.0] if epsilon else [*_EPSILONS_FROM_ZERO, EPSILON]))


def _sizes(size: int, n_rows: int) -> list[int]:
    near = [max(2, round(factor * size)) for factor in _SIZE_FACTORS]
    default = ClusteringParameters().resolve(n_rows).min_cluster_size
    return [value for value in dict.fromkeys([*near, default]) if value <= n_rows]


def _is_valid(setting: EffectiveParameters) -> bool:
    try:
        ClusteringParameters(
            **{_ASKED_NAMES.get(name, name): getattr(setting, name) for name in _NAMES},
        )
    except InvalidParameter:
        return False
    return True

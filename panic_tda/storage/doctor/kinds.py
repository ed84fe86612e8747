"""The kinds of findings: what each is, what to do about it, and what looks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from panic_tda.storage.doctor import (
    beside,
    clusterings,
    duplicates,
    embeddings,
    repairs,
    runs,
    trees,
    values,
    vectors,
)
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.doctor.repairs import Repair
from panic_tda.storage.doctor.subject import Subject

_EMBED_AGAIN = "embed the output again, or leave it out with cluster-embeddings --skip-invalid"


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes
    ----------
    name : str
        Stays what it is from version to version.
    what : str
        What is found.
    remedy : str
        What can be done.
    check : callable
        Looks for it; several kinds that are found on one way have the same.
    plan : callable or None
        Says how it is repaired where nothing can be lost by that.
    """

    name: str
    what: str
    remedy: str
    check: Callable[[Subject, Findings], None]
    plan: Callable[[Subject], Repair] | None = None


_ALL = (
    Kind(
        vectors.MISSING,
        "embeddings without a vector: NULL or empty",
        _EMBED_AGAIN,
        vectors.check_vectors,
    ),
    Kind(
        vectors.LENGTH,
        "vectors that have not the length of most of their model's, or are no bytes",
        _EMBED_AGAIN,
        vectors.check_vectors,
    ),
    Kind(
        vectors.NOT_FINITE,
        "vectors of the right length with values that are NaN or infinite",
        _EMBED_AGAIN,
        vectors.check_vectors,
    ),
    Kind(
        vectors.ZERO,
        "vectors of the right length whose values are all zero: they have no direction",
        _EMBED_AGAIN,
        vectors.check_vectors,
    ),
    Kind(
        duplicates.DUPLICATE,
        "embeddings beyond the first of an invocation and a model; each counts when it is clustered",
        "doctor --fix duplicate_embedding deletes those that equal the one that stays and that no clustering "
        "names; of vectors that differ, delete the wrong ones",
        duplicates.check_duplicates,
        repairs.plan_duplicates,
    ),
    Kind(
        embeddings.ORPHAN,
        "embeddings whose invocation is missing; no clustering has them",
        "import the invocations, or delete the embeddings",
        embeddings.check_orphans,
    ),
    Kind(
        runs.ORPHAN_INVOCATION,
        "invocations whose run is missing; their embeddings are clustered all the same",
        "import the runs, or delete the invocations with their embeddings",
        runs.check_orphan_invocations,
    ),
    Kind(
        runs.ORPHAN_RUN,
        "runs whose experiment is named and missing",
        "import the experiment, or set experiment_id to NULL",
        runs.check_orphan_runs,
    ),
    Kind(
        runs.ORPHAN_DIAGRAM,
        "persistence diagrams of the generation pipeline whose run is missing",
        "delete them; panic_tda reads none",
        runs.check_orphan_diagrams,
    ),
    Kind(
        clusterings.ORPHAN,
        "assignments whose clustering or embedding is missing; they only take room",
        "doctor --fix orphan_assignment",
        clusterings.check_clusterings,
        repairs.plan_orphan_assignments,
    ),
    Kind(
        embeddings.WRONG_TYPE,
        "embeddings of texts by a model of which at least nine in ten are of images, or of images by one of "
        "texts",
        "delete them, or embed the outputs that were meant",
        embeddings.check_types,
    ),
    Kind(
        runs.OUTPUT,
        "invocations of type TEXT without a text (an empty one is a text), and of type IMAGE without an "
        "image where the database has images at all",
        "generate the step again; nothing, where a dump came without images, or vectors without texts",
        runs.check_outputs,
    ),
    Kind(
        runs.GAP,
        "runs in which a step is missing; that only one type was stored, every second step, is no gap",
        "generate the step again; without it steps keep their numbers, and trajectories have a hole",
        runs.check_sequences,
    ),
    Kind(
        runs.REPEATED,
        "runs in which several steps have one number",
        "delete the steps that are not the run's, with their embeddings",
        runs.check_sequences,
    ),
    Kind(
        runs.UNFINISHED,
        "runs that end before their max_length, or have no step",
        "generate the rest in the pipeline; nothing, where they were stopped on purpose",
        runs.check_sequences,
    ),
    Kind(
        runs.BAD_ID,
        "ids that are not 32 lower-case hexadecimal digits stored as text",
        "give the row another id, wherever it is named; embeddings: leave them out with cluster-embeddings "
        "--skip-invalid",
        runs.check_ids,
    ),
    Kind(
        clusterings.BROKEN,
        "clusterings whose assignments, labels, sizes, medoids or parameters are not what was saved: "
        "embeddings have gone since, or rows were changed by hand",
        "doctor --fix broken_clustering deletes them; then cluster again",
        clusterings.check_clusterings,
        repairs.plan_broken_clusterings,
    ),
    Kind(
        trees.WRONG_TREE,
        "spanning trees with edges whose height is not that of their two rows, as an earlier version stored "
        "for small models: clusters are right, validity is not",
        "cluster again (panic-tda cluster-embeddings), then delete the old clustering (panic-tda "
        "delete-clusterings)",
        trees.check_trees,
    ),
    Kind(
        clusterings.TREE,
        "clusterings whose stored tree is not a spanning tree of distances; their clusters do not depend on "
        "it",
        "doctor --fix damaged_tree deletes the tree; cluster again to have one",
        clusterings.check_trees,
        repairs.plan_damaged_trees,
    ),
    Kind(
        values.UNREADABLE,
        "values that are not what their column holds: of another type, text that is not UTF-8, other JSON",
        "correct them in the database, or delete the rows with all that names them",
        values.check_values,
    ),
    Kind(
        clusterings.OLD,
        "tables with clusterings of the generation pipeline, which nothing reads",
        "panic-tda upgrade replaces them",
        clusterings.check_old_tables,
    ),
    Kind(
        beside.UNFINISHED,
        "results that were computed and wait to be saved, and states of runs that have not ended",
        "panic-tda save-pending saves results; the stopped command goes on from its state; or delete it",
        beside.check_beside,
    ),
)
KINDS = {kind.name: kind for kind in _ALL}
"""All kinds by name, in the order in which they are told."""

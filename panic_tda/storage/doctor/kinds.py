"""The table of all kinds of findings: description, remedy, check and repair of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from panic_tda.storage.doctor import (
    clusterings,
    duplicates,
    embeddings,
    predictions,
    prompts,
    repairs,
    runs,
    trees,
    unfinished_work,
    values,
    vectors,
)
from panic_tda.storage.doctor.database_info import DatabaseInfo
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.doctor.repairs import Repair

_EMBED_AGAIN = "embed the output again, or leave it out with cluster-embeddings --skip-invalid"


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes
    ----------
    name : str
        Name in the output of `doctor`; it is the same in every version.
    what : str
        Description.
    remedy : str
        Steps that solve the problem.
    check : callable
        Function that finds it; several kinds may share one.
    plan : callable or None
        Function that plans the repair, if a repair without data loss exists.
    """

    name: str
    what: str
    remedy: str
    check: Callable[[DatabaseInfo, Findings], None]
    plan: Callable[[DatabaseInfo], Repair] | None = None


_ALL = (
    Kind(
        vectors.MISSING,
        "embeddings without a vector: NULL or empty",
        _EMBED_AGAIN,
        vectors.check_vectors,
    ),
    Kind(
        vectors.LENGTH,
        "vectors that are not bytes, or whose length differs from most vectors of their model",
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
        "vectors of the right length whose values are all zero, so they have no direction",
        _EMBED_AGAIN,
        vectors.check_vectors,
    ),
    Kind(
        prompts.PROMPT,
        "embeddings of initial prompts that cannot be used, or whose run is missing; other results do not "
        "depend on them",
        "delete the rows from promptembedding, then import the dump again (panic-tda import-embeddings)",
        prompts.check_prompts,
    ),
    Kind(
        duplicates.DUPLICATE,
        "embeddings beyond the first of an invocation and a model; each of them is clustered",
        "doctor --fix duplicate_embedding deletes those that equal the first one and belong to no "
        "clustering; if vectors differ, delete the wrong ones",
        duplicates.check_duplicates,
        repairs.plan_duplicates,
    ),
    Kind(
        embeddings.ORPHAN,
        "embeddings whose invocation is missing; they are never clustered",
        "import the invocations, or delete the embeddings",
        embeddings.check_orphans,
    ),
    Kind(
        runs.ORPHAN_INVOCATION,
        "invocations whose run is missing; their embeddings are clustered nevertheless",
        "import the runs, or delete the invocations with their embeddings",
        runs.check_orphan_invocations,
    ),
    Kind(
        runs.ORPHAN_RUN,
        "runs that refer to a missing experiment",
        "import the experiment, or set experiment_id to NULL",
        runs.check_orphan_runs,
    ),
    Kind(
        clusterings.ORPHAN,
        "assignments whose clustering or embedding is missing; they only use disk space",
        "doctor --fix orphan_assignment deletes them",
        clusterings.check_clusterings,
        repairs.plan_orphan_assignments,
    ),
    Kind(
        embeddings.WRONG_TYPE,
        "embeddings of the other output type (text or image) than at least 90 % of their model's embeddings",
        "delete them, and embed outputs of the right type",
        embeddings.check_types,
    ),
    Kind(
        runs.OUTPUT,
        "invocations of type TEXT without a text (an empty text is valid), and of type IMAGE without an "
        "image if the database has any images",
        "generate the step again; ignore it if a dump had no images, or an import no texts",
        runs.check_outputs,
    ),
    Kind(
        runs.GAP,
        "runs with missing steps; it is no gap if only one output type, every second step, was stored",
        "generate the steps again; otherwise other steps keep their numbers, and trajectories have a gap",
        runs.check_sequences,
    ),
    Kind(
        runs.REPEATED,
        "runs in which several steps have the same number",
        "delete the steps that do not belong to the run, with their embeddings",
        runs.check_sequences,
    ),
    Kind(
        runs.UNFINISHED,
        "runs that end before their max_length, or have no step",
        "generate the remaining steps in the pipeline; ignore it if the runs were stopped on purpose",
        runs.check_sequences,
    ),
    Kind(
        runs.BAD_ID,
        "ids that are not 32 lower-case hexadecimal digits stored as text",
        "give the row another id in all tables that refer to it; leave out embeddings with "
        "cluster-embeddings --skip-invalid",
        runs.check_ids,
    ),
    Kind(
        clusterings.BROKEN,
        "clusterings whose assignments, labels, sizes, medoids or parameters differ from those that were "
        "saved: embeddings were deleted since, or rows were changed by hand",
        "doctor --fix broken_clustering deletes them; then cluster again",
        clusterings.check_clusterings,
        repairs.plan_broken_clusterings,
    ),
    Kind(
        trees.WRONG_TREE,
        "spanning trees with edges of wrong height, as an earlier version stored for small models: the "
        "clusters are right, their validity is wrong",
        "cluster again (panic-tda cluster-embeddings), then delete the old clustering (panic-tda "
        "delete-clusterings)",
        trees.check_heights,
    ),
    Kind(
        trees.TREE,
        "clusterings whose stored tree is not a spanning tree of distances; their clusters do not depend on "
        "it",
        "doctor --fix damaged_tree deletes the tree; cluster again to store a new one",
        trees.check_trees,
        repairs.plan_damaged_trees,
    ),
    Kind(
        trees.NEIGHBOURS,
        "clusterings whose stored neighbour lists are damaged; neither clusters nor trees depend on them",
        "doctor --fix damaged_neighbours deletes the lists; cluster again to store new ones",
        trees.check_neighbours,
        repairs.plan_damaged_neighbours,
    ),
    Kind(
        predictions.DAMAGED,
        "predicted assignments with an invalid label or probability, or of an embedding that the clustering "
        "itself holds; the clusters do not depend on them",
        "doctor --fix damaged_prediction deletes them; assign the embeddings again (panic-tda "
        "assign-embeddings)",
        predictions.check_predictions,
        repairs.plan_damaged_predictions,
    ),
    Kind(
        values.UNREADABLE,
        "values that do not match their column: another type, text that is not UTF-8, JSON of another form",
        "correct them in the database, or delete the rows with all rows that refer to them",
        values.check_values,
    ),
    Kind(
        clusterings.OLD,
        "tables with clusterings of the old generation pipeline, which no command reads",
        "panic-tda upgrade replaces them",
        clusterings.check_old_tables,
    ),
    Kind(
        unfinished_work.UNFINISHED,
        "results that were computed but not saved, and checkpoints of unfinished runs",
        "save results with panic-tda save-pending; run a stopped command again to resume it; or delete the "
        "files",
        unfinished_work.check_unfinished_work,
    ),
)
KINDS = {kind.name: kind for kind in _ALL}
"""All kinds by name, in the order of the output."""

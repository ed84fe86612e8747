"""What an import says that it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from uuid import UUID

from panic_tda.wording import pluralize


@dataclass(frozen=True)
class LeftOut:
    """Rows that are not in the database after their import, by the reason.

    Attributes
    ----------
    prompts, prompt_embeddings : int
        Prompts that stand in a dump as outputs before the first one, and their embeddings.
    orphaned_invocations, orphaned_embeddings : int
        Their run, or their invocation, is neither in the dump nor in the database.
    repeated_invocations : int
        Their run has another invocation of this sequence number.
    repeated_embeddings : int
        Their invocation has another embedding of this model: both would count.
    embeddings_without_vector : int
        Of a dump: not computed yet.
    invalid_vectors : int
        Embeddings whose vector cannot be used, where these are left out on request.
    """

    prompts: int = 0
    prompt_embeddings: int = 0
    orphaned_invocations: int = 0
    orphaned_embeddings: int = 0
    repeated_invocations: int = 0
    repeated_embeddings: int = 0
    embeddings_without_vector: int = 0
    invalid_vectors: int = 0

    @property
    def n_embeddings(self) -> int:
        """All embeddings among them."""
        return (
            self.prompt_embeddings
            + self.orphaned_embeddings
            + self.repeated_embeddings
            + self.embeddings_without_vector
            + self.invalid_vectors
        )

    def __add__(self, other: LeftOut) -> LeftOut:
        theirs = asdict(other)
        return LeftOut(**{name: count + theirs[name] for name, count in asdict(self).items()})


REASONS = {
    "prompts": "prompts",
    "prompt_embeddings": "embeddings of prompts",
    "orphaned_invocations": "invocations whose run is missing",
    "orphaned_embeddings": "embeddings whose invocation is missing",
    "repeated_invocations": "invocations whose run has another one of this sequence number",
    "repeated_embeddings": "embeddings whose invocation has another one of this model",
    "embeddings_without_vector": "embeddings without a vector",
    "invalid_vectors": "embeddings whose vector is invalid",
}
"""What is said of each kind of rows that are left out."""


@dataclass(frozen=True)
class ImportSummary:
    """What an import added.

    Attributes
    ----------
    n_files, n_rows : int
        Files, and rows with an embedding, that were read.
    n_new_embeddings, n_new_invocations, n_new_runs : int
        Added; the other rows were in the database already, or are left out.
    models : tuple of str
        Embedding models of the rows, sorted.
    experiment_id : UUID or None
        The new runs' experiment; None where all runs were there, and for a dump, whose runs keep theirs.
    left_out : LeftOut
        What does not belong into the database.
    n_differing : int
        Embeddings, and runs and invocations of a dump, that differ from those in the database under their
        ids, which stay as they are.
    n_unlinked : int
        Invocations of a dump that are in the database without the one that they were made from: it is
        missing.
    """

    n_files: int
    n_rows: int
    n_new_embeddings: int
    n_new_invocations: int
    n_new_runs: int
    models: tuple[str, ...]
    experiment_id: UUID | None
    left_out: LeftOut = LeftOut()
    n_differing: int = 0
    n_unlinked: int = 0

    @property
    def n_present(self) -> int:
        """Rows whose embedding was in the database already."""
        return self.n_rows - self.n_new_embeddings - self.left_out.n_embeddings

    def __add__(self, other: ImportSummary) -> ImportSummary:
        return ImportSummary(
            n_files=self.n_files + other.n_files,
            n_rows=self.n_rows + other.n_rows,
            n_new_embeddings=self.n_new_embeddings + other.n_new_embeddings,
            n_new_invocations=self.n_new_invocations + other.n_new_invocations,
            n_new_runs=self.n_new_runs + other.n_new_runs,
            models=tuple(sorted({*self.models, *other.models})),
            experiment_id=self.experiment_id or other.experiment_id,
            left_out=self.left_out + other.left_out,
            n_differing=self.n_differing + other.n_differing,
            n_unlinked=self.n_unlinked + other.n_unlinked,
        )

    def describe(self) -> str:
        """Say in one or two lines what was added."""
        rows, files = pluralize(self.n_rows, "row"), pluralize(self.n_files, "file")
        read = f"read {self.n_rows:,} {rows} from {self.n_files:,} {files}"
        return "; ".join([f"{read}: {self._added()}", *self._not_added()])

    @property
    def _adds_something(self) -> bool:
        return any((self.n_new_embeddings, self.n_new_invocations, self.n_new_runs))

    @property
    def _was_there(self) -> bool:
        return 0 < self.n_present == self.n_rows

    def _added(self) -> str:
        if not self._adds_something:
            return "nothing to add" + (", all of them are in the database already" if self._was_there else "")
        models = f" ({', '.join(self.models)})" if self.n_new_embeddings else ""
        return (
            f"added {self.n_new_embeddings:,} {pluralize(self.n_new_embeddings, 'embedding')}{models}, "
            f"{self.n_new_invocations:,} {pluralize(self.n_new_invocations, 'invocation')} and "
            f"{self.n_new_runs:,} {pluralize(self.n_new_runs, 'run')}"
        )

    def _not_added(self) -> list[str]:
        said = []
        if self.n_present and (self._adds_something or not self._was_there):
            said.append(f"{self.n_present:,} {pluralize(self.n_present, 'was', 'were')} there already")
        left_out = [_count_left_out(name, count) for name, count in asdict(self.left_out).items() if count]
        if left_out:
            said.append(f"left out {', '.join(left_out)}")
        if self.n_differing:
            differ = pluralize(
                self.n_differing,
                "differs from what is stored under its id",
                "differ from what is stored under their ids",
            )
            said.append(f"{self.n_differing:,} {differ}, which stays")
        return said

    def __str__(self) -> str:
        return self.describe()


def _count_left_out(name: str, count: int) -> str:
    things, _, which = REASONS[name].partition(" ")
    return f"{count:,} {pluralize(count, things.removesuffix('s'))} {which}".rstrip()

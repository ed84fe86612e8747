"""The summary of an import: rows that were added, rows that were left out, and the message about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from uuid import UUID

from panic_tda.wording import pluralize


@dataclass(frozen=True)
class LeftOut:
    """The number of rows that an import left out, by reason.

    Attributes
    ----------
    prompts : int
        Prompts that a dump has as outputs before the first output.
    prompt_embeddings : int
        Their embeddings whose run is missing or that have no vector; others are stored by run.
    orphaned_invocations, orphaned_embeddings : int
        Invocations whose run, and embeddings whose invocation, is neither in the dump nor in the database.
    repeated_invocations : int
        Invocations whose run has another invocation with this sequence number.
    repeated_embeddings : int
        Embeddings whose invocation has another embedding of this model; both would be clustered.
    embeddings_without_vector : int
        Embeddings of a dump that are not computed yet.
    invalid_vectors : int
        Embeddings with an unusable vector, if the user asked to leave them out.
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
        """Return the number of embeddings that were left out."""
        return (
            self.prompt_embeddings
            + self.orphaned_embeddings
            + self.repeated_embeddings
            + self.embeddings_without_vector
            + self.invalid_vectors
        )

    def __add__(self, right: LeftOut) -> LeftOut:
        added = asdict(right)
        return LeftOut(**{name: count + added[name] for name, count in asdict(self).items()})


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
"""Description of each kind of rows that are left out, for messages."""


@dataclass(frozen=True)
class ImportSummary:
    """The result of an import.

    Attributes
    ----------
    n_files, n_rows : int
        Number of files, and of rows with an embedding, that were read.
    n_new_embeddings, n_new_invocations, n_new_runs : int
        Number of rows that were added; other rows were in the database already, or were left out.
    models : tuple of str
        Embedding models of the rows, sorted.
    experiment_id : UUID or None
        Experiment of the new runs; None if there are no new runs, and for a dump, which has experiments.
    left_out : LeftOut
        Number of rows that were left out.
    n_differing : int
        Number of embeddings, and of runs and invocations of a dump, that differ from the stored rows with
        their ids; stored rows stay unchanged.
    n_unlinked : int
        Number of invocations of a dump that are stored without their input invocation, which is missing.
    n_new_prompt_embeddings : int
        Number of embeddings of initial prompts that were added; they are not clustered.
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
    n_new_prompt_embeddings: int = 0

    @property
    def n_present(self) -> int:
        """Return the number of rows whose embedding was in the database already."""
        n_new = self.n_new_embeddings + self.n_new_prompt_embeddings
        return self.n_rows - n_new - self.left_out.n_embeddings

    def __add__(self, right: ImportSummary) -> ImportSummary:
        return ImportSummary(
            n_files=self.n_files + right.n_files,
            n_rows=self.n_rows + right.n_rows,
            n_new_embeddings=self.n_new_embeddings + right.n_new_embeddings,
            n_new_invocations=self.n_new_invocations + right.n_new_invocations,
            n_new_runs=self.n_new_runs + right.n_new_runs,
            models=tuple(sorted({*self.models, *right.models})),
            experiment_id=self.experiment_id or right.experiment_id,
            left_out=self.left_out + right.left_out,
            n_differing=self.n_differing + right.n_differing,
            n_unlinked=self.n_unlinked + right.n_unlinked,
            n_new_prompt_embeddings=self.n_new_prompt_embeddings + right.n_new_prompt_embeddings,
        )

    def describe(self) -> str:
        """Return a sentence about the rows that were read, added and left out."""
        rows, files = pluralize(self.n_rows, "row"), pluralize(self.n_files, "file")
        read = f"read {self.n_rows:,} {rows} from {self.n_files:,} {files}"
        return "; ".join([f"{read}: {self._describe_added()}", *self._describe_others()])

    @property
    def _adds_something(self) -> bool:
        return any(
            (self.n_new_embeddings, self.n_new_invocations, self.n_new_runs, self.n_new_prompt_embeddings)
        )

    @property
    def _is_all_present(self) -> bool:
        return 0 < self.n_present == self.n_rows

    def _describe_added(self) -> str:
        if not self._adds_something:
            return "nothing to add" + (
                ", all of them are in the database already" if self._is_all_present else ""
            )
        models = f" ({', '.join(self.models)})" if self.n_new_embeddings else ""
        return (
            f"added {self.n_new_embeddings:,} {pluralize(self.n_new_embeddings, 'embedding')}{models}, "
            f"{self.n_new_invocations:,} {pluralize(self.n_new_invocations, 'invocation')} and "
            f"{self.n_new_runs:,} {pluralize(self.n_new_runs, 'run')}"
        )

    def _describe_others(self) -> list[str]:
        parts = []
        if self.n_new_prompt_embeddings:
            embeddings = pluralize(self.n_new_prompt_embeddings, "embedding")
            parts.append(f"stored {self.n_new_prompt_embeddings:,} {embeddings} of initial prompts")
        if self.n_present and (self._adds_something or not self._is_all_present):
            parts.append(
                f"{self.n_present:,} {pluralize(self.n_present, 'was', 'were')} in the database already"
            )
        left_out = [_count_left_out(name, count) for name, count in asdict(self.left_out).items() if count]
        if left_out:
            parts.append(f"left out {', '.join(left_out)}")
        if self.n_differing:
            differ = pluralize(
                self.n_differing,
                "differs from what is stored under its id",
                "differ from what is stored under their ids",
            )
            parts.append(f"{self.n_differing:,} {differ}, which stays")
        return parts

    def __str__(self) -> str:
        return self.describe()


def _count_left_out(name: str, count: int) -> str:
    things, _, which = REASONS[name].partition(" ")
    return f"{count:,} {pluralize(count, things.removesuffix('s'))} {which}".rstrip()

"""The exceptions of this package, what is said of all others, and the one label that is not a cluster."""

from __future__ import annotations

import traceback

OUTLIER = -1
"""Label of rows that belong to no cluster."""


class PanicTdaError(Exception):
    """Something that was asked for could not be done; the message says what to do next."""


class WrongUsage(PanicTdaError):
    """The request itself is wrong: an option, a name or a path (the commands exit 2)."""


class InvalidParameter(WrongUsage, ValueError):
    """A parameter lies outside what is allowed."""


class UnknownModel(WrongUsage):
    """No embedding of this model is in the database."""


class UnknownClustering(WrongUsage):
    """No stored clustering has this id, or several begin with it."""


class NothingShared(WrongUsage):
    """Two clusterings have no embedding and no invocation in common, so that nothing can be compared."""


class MissingPath(WrongUsage):
    """A file that was named does not exist."""


class DatabaseError(PanicTdaError):
    """The database cannot be opened, read or written."""


class DamagedValue(DatabaseError):
    """A stored value is not what its column holds; the message names table, column and row.

    Parameters
    ----------
    message : str
        What to do about it, too.
    place, reason : str
        Where it is stored, and what is wrong with it.
    """

    def __init__(self, message: str, *, place: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.place, self.reason = place, reason


class DamagedTree(DatabaseError):
    """The stored tree of a clustering is not a spanning tree of its rows.

    Parameters
    ----------
    message : str
        What to do about it, too.
    fault : str
        What is wrong with it.
    """

    def __init__(self, message: str, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault


class NeedsUpgrade(DatabaseError):
    """The database has no clustering tables of this version yet."""


class NoEmbeddings(PanicTdaError):
    """There is nothing to cluster."""


class BadVectors(PanicTdaError, ValueError):
    """Vectors that have no place in the geometry: missing, ragged, not finite or zero."""


class BadInput(PanicTdaError):
    """An input file does not hold what its format promises."""


class UnsupportedOnBackend(PanicTdaError):
    """A backend refuses a request, with the reason and the alternative."""


class BackendFailure(PanicTdaError):
    """A backend could not build a tree of rows that it had accepted; these rows must not be used again."""


class DeviceOutOfMemory(PanicTdaError):
    """The device had less memory than a fit took, with the numbers and the options that would fit."""


class NoRoom(PanicTdaError):
    """A folder could not take a temporary file, with its size and the options that help."""


class CannotWrite(PanicTdaError):
    """A file could not be written, for a reason of its disk or its folder."""


class NoTree(PanicTdaError):
    """The spanning tree of a clustering was not stored, or rows that it joins have gone."""


class SaveFailed(PanicTdaError):
    """A finished clustering could not be stored; it was kept as a file."""


def release_frames(error: BaseException) -> None:
    """Free the local variables of the functions that an exception and its causes passed through.

    The arrays of a failed model live as long as these frames, which often hold each other in a cycle: until
    the next garbage collection.
    """
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        link = pending.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            traceback.clear_frames(link.__traceback__)
            pending += link.__cause__, link.__context__


def unexpected(error: Exception) -> str:
    """Say what an exception was that nobody had thought of.

    >>> unexpected(KeyError("row"))
    "unexpected KeyError: 'row'"
    """
    return f"unexpected {type(error).__name__}: {error}"

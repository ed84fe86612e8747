"""The exceptions of this package, and helpers for unexpected exceptions."""

from __future__ import annotations

import traceback


class PanicTdaError(Exception):
    """Base class of the errors that a user can act on; the message says what to do."""


class WrongUsage(PanicTdaError):
    """An option, a name or a path is wrong (the commands exit with status 2)."""


class InvalidParameter(WrongUsage, ValueError):
    """A parameter is outside its range."""


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
    """A stored value is invalid for its column; the message names table, column and row.

    Parameters
    ----------
    message : str
        The message, including what to do.
    place, reason : str
        Where the value is stored, and why it is invalid.
    """

    def __init__(self, message: str, *, place: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.place, self.reason = place, reason


class DamagedTree(DatabaseError):
    """The stored tree of a clustering is not a spanning tree of its rows.

    Parameters
    ----------
    message : str
        The message, including what to do.
    fault : str
        What is wrong with the tree.
    """

    def __init__(self, message: str, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault


class NeedsUpgrade(DatabaseError):
    """The database does not have the clustering tables of this version."""


class NoEmbeddings(PanicTdaError):
    """There is nothing to cluster."""


class BadVectors(PanicTdaError, ValueError):
    """Vectors are missing, have different lengths, are not finite or are zero."""


class BadInput(PanicTdaError):
    """An input file is damaged, or its content is invalid."""


class UnsupportedOnBackend(PanicTdaError):
    """A backend cannot process a request; the message has the reason and the alternative."""


class BackendFailure(PanicTdaError):
    """A backend accepted rows but could not build their tree; the rows may be changed: reload them."""


class DeviceOutOfMemory(PanicTdaError):
    """A fit needed more memory than the device has; the message has the sizes and options that help."""


class WorkersFailed(PanicTdaError):
    """The workers of a fit, or the connection to them, failed; the message says what to do."""


class NoRoom(PanicTdaError):
    """A temporary file could not be created; the message has its size and options that help."""


class CannotWrite(PanicTdaError):
    """A file could not be written because of its disk or its folder."""


class NoTree(PanicTdaError):
    """The spanning tree of a clustering was not stored, or some of its rows were deleted."""


class SaveFailed(PanicTdaError):
    """A finished clustering could not be stored in the database and was written to a file."""


def release_frames(error: BaseException) -> None:
    """Free the local variables of the functions that an exception and its causes passed through.

    Otherwise the arrays of a failed model stay in memory until the next garbage collection, because these
    frames often refer to each other.
    """
    pending: list[BaseException | None] = [error]
    cleared_ids: set[int] = set()
    while pending:
        exception = pending.pop()
        if exception is not None and id(exception) not in cleared_ids:
            cleared_ids.add(id(exception))
            traceback.clear_frames(exception.__traceback__)
            pending += exception.__cause__, exception.__context__


def unexpected(error: Exception) -> str:
    """Describe an exception that is not one of this package's errors.

    >>> unexpected(KeyError("row"))
    "unexpected KeyError: 'row'"
    """
    return f"unexpected {type(error).__name__}: {error}"

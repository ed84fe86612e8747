"""Looking for what is wrong in a database, and mending what can be mended without a loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from panic_tda.errors import DamagedValue, WrongUsage
from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database
from panic_tda.storage.doctor.findings import Examination, Finding, Findings
from panic_tda.storage.doctor.kinds import KINDS
from panic_tda.storage.doctor.repairs import Repair
from panic_tda.storage.doctor.subject import look_at
from panic_tda.storage.doctor.values import UNREADABLE

NAMED_IDS = 10
"""So many ids of a kind are named, where nobody says how many."""


def examine_database(
    database: Database,
    kinds: Iterable[str] = (),
    *,
    limit: int = NAMED_IDS,
    progress: Progress | None = None,
) -> Examination:
    """Look for what is wrong in a database, and for what waits beside it; nothing is changed.

    Parameters
    ----------
    database : Database
        Of the generation pipeline, before or after the upgrade.
    kinds : iterable of str
        Names of `KINDS` that are looked for; none means all.
    limit : int
        Most ids of a kind that are named; 0 names all.
    progress : Progress, optional
        Told what is looked at.

    Raises
    ------
    DatabaseError
        It cannot be read, or is no database of the pipeline.
    """
    wanted = _chosen(kinds, list(KINDS))
    subject = look_at(database, progress or Silent())
    found = Findings(limit)
    damaged: DamagedValue | None = None
    for check in dict.fromkeys(KINDS[name].check for name in wanted):
        try:
            check(subject, found)
        except DamagedValue as error:
            # One value that cannot be read does not hide what else there is.
            damaged = damaged or error
            found.leave_out([name for name in wanted if KINDS[name].check is check], str(error))
    if damaged is not None and not found.count(UNREADABLE):
        found.add(UNREADABLE, damaged.place, damaged.reason)
    return Examination(
        database=str(database),
        findings=tuple(
            Finding(
                kind=name,
                count=found.count(name),
                ids=found.ids(name),
                what=KINDS[name].what,
                remedy=KINDS[name].remedy,
                details=found.details(name),
            )
            for name in KINDS
            if found.count(name) and (name in wanted or name == UNREADABLE)
        ),
        unchecked=tuple(one for one in found.unchecked if one.kind in wanted),
    )


def plan_repairs(
    database: Database, kinds: Sequence[str] = (), *, progress: Progress | None = None
) -> list[Repair]:
    """Say what `repair` would do about some kinds, or all that it can mend; nothing is changed.

    Raises
    ------
    WrongUsage
        A kind cannot be mended so.
    NeedsUpgrade, DatabaseError
        The database is not one of this version.
    """
    mendable = [name for name, kind in KINDS.items() if kind.plan is not None]
    wanted = _chosen(kinds, mendable, "can be mended without losing anything")
    database.require_current()
    subject = look_at(database, progress or Silent())
    return [plan(subject) for name in wanted if (plan := KINDS[name].plan) is not None]


def repair(database: Database, planned: Sequence[Repair], *, progress: Progress | None = None) -> list[int]:
    """Do what was planned, one transaction a kind, and return how many of each were removed.

    What stops it in between leaves kinds that are done, and others as they were.

    Raises
    ------
    DatabaseError
        The file is marked read-only, or cannot be written.
    """
    progress = progress or Silent()
    removed = []
    for one in planned:
        if not one.count:
            removed.append(0)
            continue
        progress.phase(f"mend {one.kind}")
        with database.writing() as connection:
            removed.append(one.apply(connection))
    return removed


def _chosen(asked: Iterable[str], known: Sequence[str], what: str = "are known") -> list[str]:
    """Return the names that are asked for, or all, in the order of the table."""
    asked = list(asked)
    if unknown := sorted(set(asked) - set(known)):
        raise WrongUsage(f"{', '.join(known)} {what}; got {', '.join(unknown)}")
    return [name for name in known if name in asked or not asked]

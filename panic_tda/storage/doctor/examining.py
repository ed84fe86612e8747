"""Find errors in a database, and repair those that can be repaired without data loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from panic_tda.errors import DamagedValue, WrongUsage
from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database
from panic_tda.storage.doctor.database_info import inspect
from panic_tda.storage.doctor.findings import Examination, Finding, Findings
from panic_tda.storage.doctor.kinds import KINDS
from panic_tda.storage.doctor.repairs import Repair
from panic_tda.storage.doctor.values import UNREADABLE

NAMED_IDS = 10
"""Default of the largest number of ids that are listed for each kind."""


def examine_database(
    database: Database,
    kinds: Iterable[str] = (),
    *,
    limit: int = NAMED_IDS,
    progress: Progress | None = None,
) -> Examination:
    """Find errors in a database and unfinished work next to it, without changing anything.

    Parameters
    ----------
    database : Database
        A database of the generation pipeline, before or after the upgrade.
    kinds : iterable of str
        Names of the `KINDS` to check for; empty means all.
    limit : int
        Largest number of ids that are listed for each kind; 0 lists all.
    progress : Progress, optional
        Receives the phases of the checks.

    Raises
    ------
    DatabaseError
        It cannot be read, or is not a database of the pipeline.
    """
    wanted = _select_kinds(kinds, list(KINDS))
    info = inspect(database, progress or Silent())
    findings = Findings(limit)
    damaged: DamagedValue | None = None
    for check in dict.fromkeys(KINDS[name].check for name in wanted):
        try:
            check(info, findings)
        except DamagedValue as error:
            # An unreadable value ends its own check; the other checks still run.
            damaged = damaged or error
            findings.leave_out([name for name in wanted if KINDS[name].check is check], str(error))
    if damaged is not None and not findings.count(UNREADABLE):
        findings.add(UNREADABLE, damaged.place, damaged.reason)
    return Examination(
        database=str(database),
        findings=tuple(
            Finding(
                kind=name,
                count=findings.count(name),
                ids=findings.ids(name),
                what=KINDS[name].what,
                remedy=KINDS[name].remedy,
                details=findings.details(name),
            )
            for name in KINDS
            if findings.count(name) and (name in wanted or name == UNREADABLE)
        ),
        unchecked=tuple(skipped for skipped in findings.unchecked if skipped.kind in wanted),
    )


def plan_repairs(
    database: Database, kinds: Sequence[str] = (), *, progress: Progress | None = None
) -> list[Repair]:
    """Return the repairs that `repair` would apply for these kinds (default: all), without changing anything.

    Raises
    ------
    WrongUsage
        A kind cannot be repaired without data loss.
    NeedsUpgrade, DatabaseError
        The schema version of the database is not the current one.
    """
    repairable = [name for name, kind in KINDS.items() if kind.plan is not None]
    wanted = _select_kinds(kinds, repairable, "can be repaired without losing data")
    database.require_current()
    info = inspect(database, progress or Silent())
    return [plan(info) for name in wanted if (plan := KINDS[name].plan) is not None]


def repair(database: Database, planned: Sequence[Repair], *, progress: Progress | None = None) -> list[int]:
    """Apply planned repairs, each in one transaction, and return the number of rows that each removed.

    An interruption leaves every kind either repaired or unchanged.

    Raises
    ------
    DatabaseError
        The file is marked read-only, or cannot be written.
    """
    progress = progress or Silent()
    removed = []
    for plan in planned:
        if not plan.count:
            removed.append(0)
            continue
        progress.phase(f"repair {plan.kind}")
        with database.writing() as connection:
            removed.append(plan.apply(connection))
    return removed


def _select_kinds(names: Iterable[str], known: Sequence[str], property_text: str = "are known") -> list[str]:
    """Return the requested kinds, or all of them, in the order of `known`."""
    requested = list(names)
    if unknown := sorted(set(requested) - set(known)):
        raise WrongUsage(f"{', '.join(known)} {property_text}; got {', '.join(unknown)}")
    return [name for name in known if name in requested or not requested]

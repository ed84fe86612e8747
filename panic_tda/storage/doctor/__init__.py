"""What is wrong in a database, in the field or of our own: found without changing anything.

In flows a database, before or after its upgrade. Out flows an `Examination`: each kind of finding with its
count, the first ids, what it is and what to do about it.

`examining` is the way in. `kinds` is the one table of what there is to find; each kind names the check that
looks for it: `vectors` (read once, in the order of the file), `embeddings` and `duplicates`, `runs` with
their steps, `clusterings`, `trees`, and `beside` for what lies beside the database. `repairs` says what can
be mended without losing anything, and does it. `subject` is the database that is looked at, and knows how its
rows are reached; `findings` counts.

What stands in an index is read from there. Of invocations the beginning of each row is read, once, and never
an image. Each check is a transaction of its own, so that others can write meanwhile. Before the upgrade some
indexes are missing: then rows are read, and what cannot be seen without going through images is left out, and
named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from panic_tda.lazy import handed_on

if TYPE_CHECKING:
    from panic_tda.storage.doctor.examining import NAMED_IDS as NAMED_IDS
    from panic_tda.storage.doctor.examining import examine_database as examine_database
    from panic_tda.storage.doctor.examining import plan_repairs as plan_repairs
    from panic_tda.storage.doctor.examining import repair as repair
    from panic_tda.storage.doctor.findings import Examination as Examination
    from panic_tda.storage.doctor.findings import Finding as Finding
    from panic_tda.storage.doctor.findings import Unchecked as Unchecked
    from panic_tda.storage.doctor.kinds import KINDS as KINDS
    from panic_tda.storage.doctor.repairs import Repair as Repair

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "KINDS": "kinds",
        "NAMED_IDS": "examining",
        "Examination": "findings",
        "Finding": "findings",
        "Repair": "repairs",
        "Unchecked": "findings",
        "examine_database": "examining",
        "plan_repairs": "examining",
        "repair": "examining",
    },
)

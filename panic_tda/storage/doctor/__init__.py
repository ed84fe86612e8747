"""Find errors in a database without changing it, and repair those that can be repaired without data loss.

The input is a database, before or after its upgrade. The result is an `Examination`: for each kind of finding
its count, the first ids, a description and a remedy.

`examining` has the public functions. `kinds` is the table of all kinds of findings; each kind names the
function that checks for it. The checks are in `vectors` (read once, in the order of the file), `embeddings`,
`prompts`, `duplicates`, `runs` (with their steps), `clusterings`, `trees`, `values`, and `unfinished_work`
(files next to the database). `repairs` plans and applies repairs. `database_info` describes the tables,
columns and indexes of the database; `findings` counts.

Checks read indexes where an index has the columns. Otherwise the beginning of each invocation row is read
once, and never an image. Each check runs in its own transaction, so that others can write meanwhile. Before
the upgrade some indexes are missing: rows are then read instead, and a check that would have to read images
is skipped and reported as skipped.
"""

from __future__ import annotations

from panic_tda.storage.doctor.examining import examine_database as examine_database
from panic_tda.storage.doctor.examining import plan_repairs as plan_repairs
from panic_tda.storage.doctor.examining import repair as repair
from panic_tda.storage.doctor.findings import Examination as Examination
from panic_tda.storage.doctor.kinds import KINDS as KINDS
from panic_tda.storage.doctor.repairs import Repair as Repair

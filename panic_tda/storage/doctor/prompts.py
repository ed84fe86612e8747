"""Check the embeddings of initial prompts, which only databases with an imported dump have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import sqlalchemy as sa

from panic_tda.arrays.rows import has_direction
from panic_tda.storage.cells import read_each, read_stored_values
from panic_tda.storage.doctor.database_info import DatabaseInfo, has_index
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.read.census import FLOAT_BYTES, list_models, stored_width
from panic_tda.storage.schema.tables import PROMPT_EMBEDDING, Run
from panic_tda.wording import pluralize

PROMPT = "prompt_embedding"
_INDEX = "ix_embedding_model_length_invocation"


def check_prompts(info: DatabaseInfo, findings: Findings) -> None:
    """Find embeddings of initial prompts that cannot be read or compared, and those whose run is missing."""
    if not info.has(PROMPT_EMBEDDING.name, *PROMPT_EMBEDDING.c.keys()):
        return
    with info.reading("check embeddings of prompts") as connection:
        if not has_index(connection, _INDEX):
            findings.leave_out([PROMPT], "no index has the lengths of vectors yet: upgrade first")
            return
        widths = {model: stored_width(connection, model) for model in list_models(connection)}
        runs = set(read_stored_values(connection, sa.select(sa.type_coerce(Run.__table__.c.id, sa.String))))
        for values, damaged, stored in read_each(connection, sa.select(*PROMPT_EMBEDDING.c)):
            fault = _describe_fault(values, widths, runs) if damaged is None else damaged.reason
            if fault:
                findings.add(PROMPT, stored["run_id"], fault)


def _describe_fault(values: Any, widths: Mapping[str, int], runs: set[Any]) -> str:
    """Describe why an embedding of a prompt cannot be used; "" if it can."""
    run, model, vector = values
    if run not in runs:
        return f"{model}, the run is missing"
    n_bytes = len(vector)
    if not n_bytes or n_bytes % FLOAT_BYTES or n_bytes != widths.get(model, n_bytes):
        wanted = widths.get(model) or "float32 values"
        return f"{model}, {n_bytes} {pluralize(n_bytes, 'byte')}, not {wanted}"
    if not has_direction(np.frombuffer(vector, dtype="<f4")[None]).all():
        return f"{model}, the vector is zero, or has values that are NaN or infinite"
    return ""

"""What is said of clusterings that are not made yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from panic_tda.cli.rendering.common import PIPE_COLUMNS
from panic_tda.cli.text import Column, duration, on_one_line, paragraph, table
from panic_tda.devices.machine import available_cores
from panic_tda.insight.memory import BackendMemory
from panic_tda.insight.planning import FactorPlan, Plan
from panic_tda.parameters import format_bytes
from panic_tda.wording import pluralize

_COLUMNS = (
    Column("model", elastic=True),
    Column("factor", right=True),
    Column("rows", right=True),
    Column("backend"),
    Column("load", right=True, rank=2),
    Column("fit", right=True, rank=1),
    Column("save", right=True, rank=3),
    Column("about", right=True),
)


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return the object that `plan-clustering --json` prints."""
    said = asdict(plan)
    for model, of_model in zip(plan.models, said["models"], strict=True):
        for one, of_factor in zip(model.plans, of_model["plans"], strict=True):
            if one.seconds is not None:
                of_factor["seconds"]["total"] = one.seconds.total
    return said


def plan_text(plan: Plan, width: int) -> str:
    """Return a line for every model and factor, what does not fit, and the factor that ends in time."""
    backends = list(dict.fromkeys(name for _, one in _all(plan) for name in one.memory))
    chosen = {one.backend for _, one in _all(plan)}
    # What the chosen backends take stays whatever the width; what others would take goes first.
    ranks = [0 if name in chosen else 4 + at for at, name in enumerate(backends)]
    memory = [Column(name, right=True, rank=rank) for name, rank in zip(backends, ranks, strict=True)]
    columns = (*_COLUMNS, *memory)
    rows = [
        (
            model,
            f"{one.downsample:,}",
            f"{one.n_rows:,}",
            one.backend or "-",
            *_times(one),
            *(_memory(one.memory.get(name)) for name in backends),
        )
        for model, one in _all(plan)
    ]
    lines = [*_reasons(plan), *_notes(plan), *_verdicts(plan), _basis(plan), *_busy(plan)]
    # Columns stand side by side however wide they are; what is read as a text does not.
    said = [paragraph(line, min(width, PIPE_COLUMNS)) for line in lines]
    return "\n".join([table(columns, rows, width), "", *said])


def _all(plan: Plan) -> Iterator[tuple[str, FactorPlan]]:
    for model in plan.models:
        for one in model.plans:
            yield model.embedding_model, one


def _times(one: FactorPlan) -> tuple[str, ...]:
    if one.seconds is None:
        return "-", "-", "-", "-"
    found = one.seconds
    return tuple(_short(seconds) for seconds in (found.load, found.fit, found.save, found.total))


def _short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def _memory(memory: BackendMemory | None) -> str:
    if memory is None:
        return "-"
    return format_bytes(memory.bytes) if memory.fits else f"no ({format_bytes(memory.bytes)})"


def _reasons(plan: Plan) -> Iterator[str]:
    for model, one in _all(plan):
        if one.reason is not None:
            yield on_one_line(f"{model}, factor {one.downsample:,}: {one.reason}")


def _notes(plan: Plan) -> Iterator[str]:
    for model in plan.models:
        for note in model.notes:
            yield on_one_line(f"{model.embedding_model}: {note}")


def _verdicts(plan: Plan) -> Iterator[str]:
    if plan.within_seconds is None:
        return
    within = f"within {duration(plan.within_seconds)}"
    for model in plan.models if len(plan.models) > 1 else ():
        yield on_one_line(f"{model.embedding_model}: {_smallest(model.smallest_factor_within, within)}")
    name = "all models" if len(plan.models) > 1 else plan.models[0].embedding_model
    said = _smallest(plan.smallest_factor_within, within)
    if plan.smallest_factor_within is not None:
        said += f", in about {_short(plan.totals[plan.smallest_factor_within] or 0.0)}"
    else:
        known = {factor: seconds for factor, seconds in plan.totals.items() if seconds is not None}
        if known:
            said += f"; the soonest is factor {max(known):,}, in about {_short(known[max(known)])}"
    yield on_one_line(f"{name}: {said}")


def _smallest(factor: int | None, within: str) -> str:
    return f"none of these factors ends {within}" if factor is None else f"factor {factor:,} ends {within}"


def _basis(plan: Plan) -> str:
    most = max((one.measured_rows for _, one in _all(plan)), default=0)
    return (
        f"Planned in {_short(plan.seconds)} from fits of up to {most:,} "
        f"{pluralize(most, 'row')} of each. Times are those of a "
        "machine with nothing else to do; loading goes on as fast as the rows of those fits were read, and "
        "saving as fast as elsewhere. Memory is that of the rows and of the work on them."
    )


def _busy(plan: Plan) -> Iterator[str]:
    if plan.busy_cores > available_cores() / 2:
        yield (
            f"The machine was busy (load average {plan.busy_cores:.1f}, {available_cores()} "
            f"{pluralize(available_cores(), 'core')}): the "
            "times may be too long; plan again when it is not."
        )

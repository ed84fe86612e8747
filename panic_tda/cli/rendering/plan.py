"""Render the estimated time and memory of clusterings."""

from __future__ import annotations

from collections.abc import Iterator

from panic_tda.cli.rendering.common import PIPE_COLUMNS
from panic_tda.cli.text import Column, duration, paragraph, table
from panic_tda.devices.machine import available_cores
from panic_tda.insight.memory import BackendMemory
from panic_tda.insight.plans import FactorPlan, Plan
from panic_tda.insight.scaling import WorkersPlan
from panic_tda.wording import format_bytes, on_one_line, pluralize

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


def plan_text(plan: Plan, width: int) -> str:
    """Return one line per model and factor, what does not fit, and the factor that ends in time."""
    backends = list(
        dict.fromkeys(name for _, factor_plan in _iterate_plans(plan) for name in factor_plan.memory)
    )
    chosen = {factor_plan.backend for _, factor_plan in _iterate_plans(plan)}
    # Columns of chosen backends always stay; columns of the others are left out first.
    ranks = [0 if name in chosen else 4 + at for at, name in enumerate(backends)]
    memory = [Column(name, right=True, rank=rank) for name, rank in zip(backends, ranks, strict=True)]
    columns = (*_COLUMNS, *memory)
    rows = [
        (
            model,
            f"{factor_plan.downsample:,}",
            f"{factor_plan.n_rows:,}",
            factor_plan.backend or "-",
            *_format_times(factor_plan),
            *(_format_memory(factor_plan.memory.get(name)) for name in backends),
        )
        for model, factor_plan in _iterate_plans(plan)
    ]
    lines = [
        *_list_reasons(plan),
        *_list_notes(plan),
        *_describe_factors_within(plan),
        _describe_basis(plan),
        *_describe_load(plan),
    ]
    # Tables may be as wide as the output; paragraphs are narrower.
    paragraphs = [paragraph(line, min(width, PIPE_COLUMNS)) for line in lines]
    return "\n".join([table(columns, rows, width), "", *paragraphs])


def _iterate_plans(plan: Plan) -> Iterator[tuple[str, FactorPlan]]:
    for model in plan.models:
        for factor_plan in model.plans:
            yield model.embedding_model, factor_plan


def _format_times(factor_plan: FactorPlan) -> tuple[str, ...]:
    if factor_plan.seconds is None:
        return "-", "-", "-", "-"
    estimate = factor_plan.seconds
    return tuple(
        _format_seconds(seconds) for seconds in (estimate.load, estimate.fit, estimate.save, estimate.total)
    )


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def _format_memory(memory: BackendMemory | None) -> str:
    if memory is None:
        return "-"
    return format_bytes(memory.bytes) if memory.fits else f"no ({format_bytes(memory.bytes)})"


def _list_reasons(plan: Plan) -> Iterator[str]:
    for model, factor_plan in _iterate_plans(plan):
        if factor_plan.reason is not None:
            yield on_one_line(f"{model}, factor {factor_plan.downsample:,}: {factor_plan.reason}")


def _list_notes(plan: Plan) -> Iterator[str]:
    for model in plan.models:
        for note in model.notes:
            yield on_one_line(f"{model.embedding_model}: {note}")


def _describe_factors_within(plan: Plan) -> Iterator[str]:
    if plan.within_seconds is None:
        return
    within = f"within {duration(plan.within_seconds)}"
    for model in plan.models if len(plan.models) > 1 else ():
        yield on_one_line(
            f"{model.embedding_model}: {_describe_factor(model.smallest_factor_within, within)}"
        )
    name = "all models" if len(plan.models) > 1 else plan.models[0].embedding_model
    text = _describe_factor(plan.smallest_factor_within, within)
    if plan.smallest_factor_within is not None:
        text += f", in about {_format_seconds(plan.totals[plan.smallest_factor_within] or 0.0)}"
    else:
        known = {factor: seconds for factor, seconds in plan.totals.items() if seconds is not None}
        if known:
            text += f"; the fastest is factor {max(known):,}, in about {_format_seconds(known[max(known)])}"
    yield on_one_line(f"{name}: {text}")


def _describe_factor(factor: int | None, within: str) -> str:
    return f"none of these factors ends {within}" if factor is None else f"factor {factor:,} ends {within}"


def _describe_basis(plan: Plan) -> str:
    most = max((factor_plan.measured_rows for _, factor_plan in _iterate_plans(plan)), default=0)
    return (
        f"Planned in {_format_seconds(plan.seconds)} from a fit of up to {most:,} "
        f"{pluralize(most, 'row')} of each. Times are for an otherwise idle machine. Loading is assumed to "
        "be as fast as for those rows, and saving as fast as on another machine. Memory includes the rows."
    )


def _describe_load(plan: Plan) -> Iterator[str]:
    if plan.busy_cores > available_cores() / 2:
        yield (
            f"The machine was busy (load average {plan.busy_cores:.1f}, {available_cores()} "
            f"{pluralize(available_cores(), 'core')}): the "
            "times may be too long. Plan again when it is idle."
        )


def workers_text(plan: WorkersPlan, width: int) -> str:
    """Return the time and the memory of a clustering that workers share."""
    times = [
        ("passes over all pairs of rows, in the workers", plan.pass_seconds),
        (
            f"{plan.n_tasks:,} {pluralize(plan.n_tasks, 'task')}, 10 ms each in the scheduler",
            plan.task_seconds,
        ),
        (f"reading {format_bytes(plan.bytes_read)}, at 200 MB/s for each worker", plan.read_seconds),
        ("this process alone", plan.client_seconds),
        ("loading compiled code", plan.start_seconds),
        ("all", plan.seconds),
    ]
    if plan.local_seconds is not None:
        times.append(("all, with workers that share the cores of this machine", plan.local_seconds))
    memory = [
        ("each task of a worker", plan.task_bytes),
        ("this process", plan.client_bytes),
        ("files in the work folder", plan.file_bytes),
    ]
    basis = (
        f"{plan.n_rows:,} × {plan.n_features} with {plan.slots:,} {pluralize(plan.slots, 'worker')}: "
        f"{duration(plan.cpu_seconds)} of processor time, predicted from fits of up to "
        f"{plan.measured_rows:,} {pluralize(plan.measured_rows, 'row')} on this machine, random like those "
        "of captions. Assumed: each worker has a core like those here, and reads 200 MB/s."
    )
    tables = [
        table((Column(title, elastic=True), Column("about", right=True)), rows, width)
        for title, rows in (
            ("time of", [(name, _format_seconds(seconds)) for name, seconds in times]),
            ("memory of", [(name, format_bytes(size)) for name, size in memory]),
        )
    ]
    if plan.n_devices:
        basis += (
            f" This machine has {plan.n_devices} CUDA {pluralize(plan.n_devices, 'device')}: here, "
            "cluster-embeddings --workers uses one worker a device. This estimate is for --devices none."
        )
    return "\n\n".join([*tables, paragraph(basis, min(width, PIPE_COLUMNS))])

"""Render imports, copies, findings and repairs of a database, and the environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from panic_tda.cli.text import paragraph, shorten
from panic_tda.devices.doctor import Environment
from panic_tda.storage.doctor import Examination, Repair
from panic_tda.storage.write.copying import CopySummary
from panic_tda.storage.write.import_summary import ImportSummary
from panic_tda.wording import format_bytes, on_one_line, pluralize


def import_text(summary: ImportSummary) -> str:
    """Return a sentence on what an import added, and what was already stored."""
    text = summary.describe()
    return text[0].upper() + text[1:] + "."


def copy_text(summary: CopySummary) -> str:
    """Return the rows of both databases by table, and what was not copied."""
    lines = [f"{summary.destination} has the same rows as {summary.source}:"]
    lines += [
        f"  {table.table:16}  {table.rows:>12,} {pluralize(table.rows, 'row'):4}  checksum {table.checksum}"
        for table in summary.tables
    ]
    if summary.n_before:
        were = pluralize(summary.n_before, "was", "were")
        lines.append(f"{summary.n_before:,} of these rows {were} copied before.")
    if summary.left_out:
        lines.append(f"Not copied: {', '.join(map(on_one_line, summary.left_out))}.")
    return "\n".join(lines)


def examination_text(examination: Examination, width: int) -> str:
    """Return the findings in a database: their counts, first ids and remedies."""
    n_found = len(examination.findings)
    lines = [f"{examination.database}: {n_found or 'no'} {pluralize(n_found, 'finding')}"]
    for finding in examination.findings:
        lines += ["", f"{finding.kind}: {finding.count:,}", paragraph(finding.what, width)]
        lines.append(paragraph(f"remedy: {finding.remedy}", width))
        # A detail begins with its id, which is not listed again.
        described = {detail.partition(": ")[0] for detail in finding.details}
        detail_lines = [*finding.details, *(row_id for row_id in finding.ids if row_id not in described)]
        n_shown = len(finding.ids)
        lines += [f"  {shorten(on_one_line(line), max(20, width - 2))}" for line in detail_lines]
        if n_shown < finding.count:
            lines.append(f"  … {finding.count - n_shown:,} more (--limit 0 shows all)")
    for skipped in examination.unchecked:
        lines += ["", paragraph(f"not checked: {skipped.kind} ({skipped.why})", width)]
    return "\n".join(lines)


def repairs_json(database: str, planned: Sequence[Repair], removed: Sequence[int]) -> dict[str, Any]:
    """Return the object that `doctor --fix --json` prints."""
    return {
        "database": database,
        "fixed": [
            {"kind": repair.kind, "count": count, "left": repair.n_left, "what": repair.what}
            for repair, count in zip(planned, removed, strict=True)
        ],
    }


def repairs_text(planned: Sequence[Repair], width: int) -> str:
    """Return what a repair deletes, and what it leaves."""
    lines = []
    for repair in planned:
        lines.append(
            paragraph(
                f"{repair.kind}: {repair.count:,} {repair.what}" if repair.count else f"{repair.kind}: none",
                width,
            )
        )
        if repair.n_left:
            stay = pluralize(
                repair.n_left,
                "stays: a clustering refers to it, or its vector differs",
                "stay: clusterings refer to them, or their vectors differ",
            )
            left = f"  {repair.n_left:,} {stay}"
            lines.append(paragraph(left, width))
    return "\n".join(lines)


def environment_text(environment: Environment, width: int) -> str:
    """Return the libraries, devices and backends of this machine, and what missing backends need."""
    driver = f"driver {environment.driver or 'none found'}"
    if environment.cuda_unusable_because is None:
        state = f"{driver} (CUDA up to {environment.driver_cuda}), runtime {environment.cuda_runtime}"
    else:
        state = f"{driver}; cannot be used: {environment.cuda_unusable_because}"
    versions = [f"{name} {version or '(not installed)'}" for name, version in environment.versions.items()]
    lines = [
        f"system    {environment.platform}, {environment.cores} {pluralize(environment.cores, 'core')}, "
        f"{_format_size(environment.memory_bytes)} memory, "
        f"{_format_size(environment.available_bytes)} available",
        f"versions  {', '.join(versions)}",
        f"kernel    {environment.kernel}",
        f"CUDA      {state}",
    ]
    lines += [
        f"device {device.number}  {device.name}, compute capability {device.compute_capability}, "
        f"{_format_size(device.total_bytes)} memory, {_format_size(device.free_bytes)} free"
        for device in environment.devices
    ]
    lines += [
        f"backend   {name}: {'can be used' if reason is None else f'cannot be used: {reason}'}"
        for name, reason in environment.backends.items()
    ]
    return "\n".join(paragraph(line, width, indent=10) for line in lines)


def _format_size(size: int | None) -> str:
    return "unknown" if size is None else format_bytes(size)

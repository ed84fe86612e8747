"""What is said of a database, and of the machine: imports, findings, the environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from panic_tda.cli.rendering.common import plain
from panic_tda.cli.text import paragraph, shorten
from panic_tda.devices.doctor import Environment
from panic_tda.storage.doctor import Examination, Repair
from panic_tda.storage.write.copying import CopySummary
from panic_tda.storage.write.import_summary import ImportSummary
from panic_tda.wording import format_bytes, on_one_line, pluralize


def import_json(summary: ImportSummary) -> dict[str, Any]:
    """Return the object that `import-embeddings --json` prints."""
    return plain(asdict(summary)) | {"n_present": summary.n_present}


def import_text(summary: ImportSummary) -> str:
    """Say what an import added, and what was there before."""
    text = summary.describe()
    return text[0].upper() + text[1:] + "."


def copy_json(summary: CopySummary) -> dict[str, Any]:
    """Return the object that `copy-database --json` prints."""
    return plain(asdict(summary))


def copy_text(summary: CopySummary) -> str:
    """Say what both databases hold now, and what stayed behind."""
    lines = [f"{summary.destination} holds what {summary.source} holds:"]
    lines += [
        f"  {one.table:16}  {one.rows:>12,} {pluralize(one.rows, 'row'):4}  checksum {one.checksum}"
        for one in summary.tables
    ]
    if summary.n_before:
        were = pluralize(summary.n_before, "was", "were")
        lines.append(f"{summary.n_before:,} of these rows {were} there from before.")
    if summary.left_out:
        lines.append(f"Not copied: {', '.join(map(on_one_line, summary.left_out))}.")
    return "\n".join(lines)


def examination_json(found: Examination) -> dict[str, Any]:
    """Return the object that `doctor --json` prints."""
    return asdict(found)


def examination_text(found: Examination, width: int) -> str:
    """Say what is wrong in a database, how often, where first, and what to do about it."""
    n_found = len(found.findings)
    lines = [f"{found.database}: {n_found or 'no'} {pluralize(n_found, 'finding')}"]
    for finding in found.findings:
        lines += ["", f"{finding.kind}: {finding.count:,}", paragraph(finding.what, width)]
        lines.append(paragraph(f"remedy: {finding.remedy}", width))
        # A line that says more of an id begins with it.
        said = [*finding.details, *(one for one in finding.ids if one not in _heads(finding.details))]
        n_shown = len(finding.ids)
        lines += [f"  {shorten(on_one_line(line), max(20, width - 2))}" for line in said]
        if n_shown < finding.count:
            lines.append(f"  … {finding.count - n_shown:,} more (--limit 0 names all)")
    for one in found.unchecked:
        lines += ["", paragraph(f"not looked for: {one.kind} ({one.why})", width)]
    return "\n".join(lines)


def repairs_json(database: str, planned: Sequence[Repair], removed: Sequence[int]) -> dict[str, Any]:
    """Return the object that `doctor --fix --json` prints."""
    return {
        "database": database,
        "fixed": [
            {"kind": one.kind, "count": count, "left": one.n_left, "what": one.what}
            for one, count in zip(planned, removed, strict=True)
        ],
    }


def repairs_text(planned: Sequence[Repair], width: int) -> str:
    """Say what would be mended, and what stays as it is."""
    lines = []
    for one in planned:
        lines.append(
            paragraph(f"{one.kind}: {one.count:,} {one.what}" if one.count else f"{one.kind}: none", width)
        )
        if one.n_left:
            stay = pluralize(
                one.n_left,
                "stays: a clustering names it, or its vector differs",
                "stay: clusterings name them, or their vectors differ",
            )
            left = f"  {one.n_left:,} {stay}"
            lines.append(paragraph(left, width))
    return "\n".join(lines)


def _heads(details: Sequence[str]) -> set[str]:
    return {detail.partition(": ")[0] for detail in details}


def environment_json(found: Environment) -> dict[str, Any]:
    """Return the object that `doctor --environment --json` prints."""
    return asdict(found)


def environment_text(found: Environment, width: int) -> str:
    """Say what this machine has, which backends run on it, and what would make the others run."""
    driver = f"driver {found.driver or 'none found'}"
    if found.cuda_unusable_because is None:
        state = f"{driver} (CUDA up to {found.driver_cuda}), runtime {found.cuda_runtime}"
    else:
        state = f"{driver}; cannot be used: {found.cuda_unusable_because}"
    versions = [f"{name} {version or '(not installed)'}" for name, version in found.versions.items()]
    lines = [
        f"system    {found.platform}, {found.cores} {pluralize(found.cores, 'core')}, "
        f"{_bytes(found.memory_bytes)} memory, {_bytes(found.available_bytes)} available",
        f"versions  {', '.join(versions)}",
        f"kernel    {found.kernel}",
        f"CUDA      {state}",
    ]
    lines += [
        f"device {one.number}  {one.name}, compute capability {one.compute_capability}, "
        f"{_bytes(one.total_bytes)} memory, {_bytes(one.free_bytes)} free"
        for one in found.devices
    ]
    lines += [
        f"backend   {name}: {'can be used' if reason is None else f'cannot be used: {reason}'}"
        for name, reason in found.backends.items()
    ]
    return "\n".join(paragraph(line, width, indent=10) for line in lines)


def _bytes(size: int | None) -> str:
    return "unknown" if size is None else format_bytes(size)

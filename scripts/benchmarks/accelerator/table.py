"""A Markdown table of what `scripts/gpu_check` wrote, by the standard library alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def table(path: Path, rows: list[str] | None = None) -> str:
    """One line for each part, of the rows asked for: seconds, rate, fraction of the ceiling,
    error."""
    record = json.loads(path.read_text(encoding="utf-8"))
    about = record["provenance"]
    versions = f"JAX {about['versions']['jax']}, {about['created'][:10]}, size {record['size']}"
    lines = [f"{about['device']}, {versions}", ""]
    lines += ["| | seconds, warm | rate | of the ceiling | error |", "|---|---|---|---|---|"]
    for name, row in record["rows"].items():
        if rows is not None and name not in rows:
            continue
        said = row.get("error") or row.get("stopped") or row.get("skipped") or ""
        lines.append(f"| **{name}** {cell(said)} | | | | |")
        lines += [line(part) for part in row.get("parts", ())]
    return "\n".join(lines) + "\n"


def line(part: dict[str, Any]) -> str:
    """One part."""
    said = next(
        (part[key] for key in ("error", "not_supported", "absent", "summary") if key in part), None
    )
    if said is not None:
        return f"| {part['case']} | {cell(said)} | | | |"
    if "longest" in part:
        busy = f"{part['kernels']} kernels, busy {number(part['busy_seconds'])} s"
        most = ", ".join(f"{one['name']} {number(one['seconds'])}" for one in part["longest"][:3])
        return (
            f"| {part['case']} | {number(part['span_seconds'])} | {cell(f'{busy}: {most}')} | | |"
        )
    cold = " (cold)" if part.get("cold") else ""
    share = f"{part['fraction']:.2g} of {part['ceiling']}" if "fraction" in part else ""
    error = number(part.get("relative_error")) + ("" if part.get("ok", True) else " **too large**")
    cells = part["case"], number(part.get("seconds")) + cold, rate(part), share, error
    return f"| {' | '.join(cells)} |"


def rate(part: dict[str, Any]) -> str:
    """The rate in the unit that it was measured in."""
    for key, unit in (
        ("tflops", "TFLOP/s"),
        ("gb_per_second", "GB/s"),
        ("kernels_per_second", "kernels/s"),
    ):
        if key in part:
            return f"{number(part[key])} {unit}"
    return ""


def number(value: float | None) -> str:
    """Three digits."""
    return "" if value is None else f"{value:.3g}"


def cell(text: str) -> str:
    """Text that cannot end a cell."""
    return " ".join(text.replace("|", "/").split())[:160]

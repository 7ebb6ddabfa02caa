"""The report of an ablation."""

from __future__ import annotations

from pathlib import Path


def write_report(workdir: Path) -> Path:
    """Stands in for the report."""
    return workdir / "report.html"

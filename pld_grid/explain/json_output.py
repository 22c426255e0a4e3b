"""Explanations and differences as plain data: what `--json` prints."""

from typing import Any

from pydantic_core import to_jsonable_python

from pld_grid.explain.cell_report import CellReport
from pld_grid.explain.difference import ABSENT, Difference, FieldDifference, dump_fields
from pld_grid.explain.explanation import Explanation, Number


def to_dict(result: Explanation | Difference) -> dict[str, Any]:
    """Return a result, unrounded, as JSON has it; None is a missing value."""
    content = _explanation(result) if isinstance(result, Explanation) else _difference(result)
    data: dict[str, Any] = to_jsonable_python(content)
    return data


def _select(source: object, *names: str) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _explanation(explanation: Explanation) -> dict[str, Any]:
    return vars(explanation) | {
        "number": _number(explanation.number) if explanation.number is not None else None,
        "cells": [_cell(report) for report in explanation.cells],
        "teachers": [_cell(report) for report in explanation.teachers],
    }


def _number(number: Number) -> dict[str, Any]:
    value = number.value
    return {
        **_select(number, "table", "title", "row", "column", "interval"),
        **_select(value, "mean", "std", "n", "difference"),
        "wanted": value.planned,
        "paper": value.paper or None,
        "samples": [_select(sample, "seed", "number", "terms") for sample in value.samples],
    }


def _cell(report: CellReport) -> dict[str, Any]:
    record = report.record
    run = {**_select(record, "run_id", "experiment_id"), "tracking_uri": report.tracking_uri, "link": report.run_link}
    return {
        "cell_id": report.cell.cell_id,
        **_select(report, "title", "state"),
        **_select(record, "reason", "parameters"),
        "cell": dump_fields(report.cell),
        **_select(record, "epochs", "provenance"),
        "run": run if record.run_id else None,
        **_select(report, "files", "history", "earlier", "uses", "ledger"),
        "rerun": report.rerun or None,
    }


def _difference(difference: Difference) -> dict[str, Any]:
    return vars(difference) | {
        **_select(difference, "equal", "paired"),
        "a": _side(difference.a),
        "b": _side(difference.b),
        "fields": [_field(field) for field in difference.fields],
        "made_with": [_field(field) for field in difference.made_with],
    }


def _side(report: CellReport) -> dict[str, Any]:
    epoch = report.last_epoch.epoch if report.last_epoch is not None else None
    side = _select(report, "title", "state")
    return {"cell_id": report.cell.cell_id, **side, "reason": report.record.reason, "epoch": epoch}


def _field(field: FieldDifference) -> dict[str, Any]:
    """Return a difference without the key of a side that has no such field."""
    return {name: value for name, value in vars(field).items() if value is not ABSENT}

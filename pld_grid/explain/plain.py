"""Explanations and differences as plain data: what `--json` prints."""

from dataclasses import asdict
from typing import Any

from pld_grid.explain.account import Account
from pld_grid.explain.difference import ABSENT, Difference, FieldDifference
from pld_grid.explain.why import Explanation, Number


def plain(found: Explanation | Difference) -> dict[str, Any]:
    """Everything found, unrounded, as JSON has it; None where there is no such thing."""
    return _explanation(found) if isinstance(found, Explanation) else _difference(found)


def _explanation(found: Explanation) -> dict[str, Any]:
    return {
        "profile": found.profile,
        "number": _number(found.number) if found.number is not None else None,
        "cells": [_account(account) for account in found.accounts],
        "teachers": [_account(account) for account in found.teachers],
        "skipped": found.skipped,
    }


def _number(number: Number) -> dict[str, Any]:
    value = number.value
    return {
        **{name: getattr(number, name) for name in ("table", "title", "row", "column")},
        **{name: getattr(value, name) for name in ("mean", "std", "n", "wanted")},
        "interval": asdict(number.interval) if number.interval is not None else None,
        "paper": value.paper or None,
        "difference": value.difference,
        "samples": [
            {"seed": sample.seed, "number": sample.number, "terms": [asdict(term) for term in sample.terms]}
            for sample in value.samples
        ],
    }


def _account(account: Account) -> dict[str, Any]:
    cell, made, run = account.cell, account.provenance, account.run
    return {
        "cell_id": cell.cell_id,
        **{name: getattr(account, name) for name in ("title", "state", "reason", "parameters")},
        "cell": cell.model_dump(mode="json", exclude={"teacher"})
        | {"teacher": cell.teacher.cell_id if cell.teacher is not None else None},
        "epochs": [epoch.model_dump(mode="json") for epoch in account.epochs],
        "provenance": made.model_dump(mode="json") if made is not None else None,
        "run": {**asdict(run), "link": run.link} if run is not None else None,
        "files": account.files,
        "history": [note.model_dump(mode="json") for note in account.history],
        "earlier": account.earlier,
        "uses": [asdict(use) for use in account.uses],
        "ledger": [asdict(choice) for choice in account.ledger],
        "rerun": account.rerun or None,
    }


def _difference(found: Difference) -> dict[str, Any]:
    return {
        "equal": found.equal,
        **{side: _side(getattr(found, side)) for side in ("a", "b")},
        "fields": [_field(field) for field in found.fields],
        **{name: getattr(found, name) for name in ("paired", "same_batches", "same_teacher", "same_start")},
        "comparable": found.comparable,
        "metrics": [asdict(metric) for metric in found.metrics],
        "made_with": [_field(field) for field in found.made_with],
    }


def _side(account: Account) -> dict[str, Any]:
    last = account.last
    return {
        "cell_id": account.cell.cell_id,
        **{name: getattr(account, name) for name in ("title", "state", "reason")},
        "epoch": last.epoch if last is not None else None,
    }


def _field(field: FieldDifference) -> dict[str, Any]:
    """A side that has no such field has no such key."""
    sides = {"a": field.a, "b": field.b}
    return {"path": field.path, **{side: value for side, value in sides.items() if value is not ABSENT}}

"""Flags and environment variables."""

from front_door import Case

GRID = {"mine.yaml": "cells: {teacher: ResNet-152, student: ResNet-50, loss: [kd, pld]}\n"}


def _run(*flags: str, said: str) -> Case:
    return Case(("run", "mine.yaml", *flags), said, GRID)


def _tracked(uri: str, said: str, code: int = 2) -> Case:
    return Case(("sync",), said, GRID, {"MLFLOW_TRACKING_URI": uri}, code=code)


NO_MLFLOW = "is no MLflow: http://HOST:PORT, sqlite:///FILE or postgresql://..."
CASES = {
    # The command line itself.
    "unknown command": Case(("rnu",), "No such command 'rnu'"),
    "unknown flag": _run("--sed", "3", said="No such option: --sed | --seeds | (pld-grid run --help)"),
    "no grid": Case(("run",), "Missing argument 'GRID...' (pld-grid run --help)"),
    "flag without a value": Case(("plan", "mine.yaml", "--seeds"), "--seeds | requires an argument"),
    "word for seeds": _run(
        "--seeds", "three", said="'--seeds': expected a whole number, not \"three\" (pld-grid run --help)"
    ),
    "fraction of a seed": _run("--seeds", "1.5", said="'--seeds': expected a whole number, not \"1.5\""),
    "no seeds": _run("--seeds", "0", said="'--seeds': must be at least 1, not \"0\""),
    "negative seeds": _run("--seeds", "-1", said="'--seeds': must be at least 1, not \"-1\""),
    "endless seeds": _run("--seeds", "9" * 30, said="'--seeds': must be at most 2147483648, not \"999"),
    "many seeds": _run(
        "--seeds", "2147483648", said="mine.yaml:1: cells: expands to 4294967296 cells, more than the limit of 2000"
    ),
    "no cells at most": _run("--max-cells", "0", said="'--max-cells': must be at least 1"),
    "any number of cells": _run("--max-cells", "1e9", said="'--max-cells': expected a whole number, not \"1e9\""),
    "negative grace": _run("--grace", "-1", said="'--grace': must be at least 0, not \"-1\""),
    "grace that is no number": _run("--grace", "nan", said="'--grace': must be at | not \"nan\""),
    "endless grace": _run("--grace", "inf", said="'--grace': must be at most 1000000, not \"inf\""),
    "word for processors": _run("--cpus-per-cohort", "all", said="'--cpus-per-cohort': expected a number, not \"all\""),
    "more processors than there are": _run(
        "--cpus-per-cohort", "4096", said="a cohort asks for 4096 CPUs, the cluster has"
    ),
    "devices that do not divide a batch": _run(
        "--devices-per-cohort", "7", said="devices_per_cohort 7 does not divide the 1 micro-batch"
    ),
    "again without a cell": _run("--again", said="--again: name the cells with --only"),
    "only what is no cell": _run(
        "--only", "055dcd927eff1e40", said='--only: no cell of these grids is "055dcd927eff1e40"'
    ),
    "only nothing": _run("--only", "", said='--only: no cell of these grids is ""'),
    "only commas": _run("--only", ",,", said='--only: no cell of these grids is ""'),
    "unknown source": Case(
        ("report", "mine.yaml", "--from", "memory"), "'--from': 'memory' is not one of 'store', 'mlflow'", GRID
    ),
    "watch and check": Case(("report", "--check", "--watch"), "--watch: goes with the store's records only"),
    "no interval": Case(
        ("report", "mine.yaml", "--watch", "--interval", "0"), "'--interval': must be at least 0.1", GRID
    ),
    "no slots": Case(("plan", "mine.yaml", "--slots", "0"), "'--slots': must be at least 1", GRID),
    "unknown device": Case(
        ("plan", "mine.yaml", "--device", "../../TPU"), '--device: no calibration of "../../TPU"; there are: none', GRID
    ),
    "port of the UI": Case(("ui", "--port", "65536"), "'--port': must be at most 65535"),
    "points of a landscape": Case(("landscapes", "--points", "1000000"), "'--points': must be at most 1001"),
    "even points": Case(("landscapes", "--points", "2"), "points along a side must be odd and at least 3"),
    "one class": Case(("landscapes", "--classes", "1"), "a slice needs at least 2 classes, got 1"),
    "rank of the label": Case(("landscapes", "--label-rank", "0"), "the label's rank must be from 1 to 1000"),
    "seed of a landscape": Case(("landscapes", "--seed", "-1"), "a seed must not be negative, got -1"),
    "no sample": Case(("check-data", "--sample", "0"), "'--sample': must be at least 1"),
    "unknown teacher": Case(
        ("audit-teachers", "--teacher", "ResNet-15"), '--teacher: unknown model "ResNet-15"; valid: | "ResNet-152"?)'
    ),
    "cell that is none": Case(("why", "xyz"), '"xyz" is no cell id: 16 hex digits, or the first 6 or more'),
    "cell that is not there": Case(
        ("diff", "000000000000", "000000000001"), "no cell in store .pld_grid/store or a grid under profile digits"
    ),
    "row without a column": Case(
        ("why", "table07", "Lamb"), "a number has a row and a column: pld-grid why GRID ROW COLUMN"
    ),
    # Environment variables.
    "store of an unknown kind": Case(
        ("run", "mine.yaml"), "store nosuch://x: Protocol not known: nosuch", GRID, {"PLD_GRID_STORE": "nosuch://x"}
    ),
    "store that needs a package": Case(
        ("plan", "mine.yaml"), "store s3://bucket/x: Install s3fs", GRID, {"PLD_GRID_STORE": "s3://bucket/x"}
    ),
    "data folder": Case(
        ("run", "mine.yaml", "--profile", "cifar100"),
        "dataset cifar100: no such folder: gone",
        GRID,
        {"PLD_GRID_DATA": "gone"},
    ),
    "weights folder": Case(
        ("plan", "mine.yaml"), "--weights-dir: no such folder: gone", GRID, {"PLD_GRID_WEIGHTS": "gone"}
    ),
    "no MLflow": _tracked("http://127.0.0.1:1", "MLflow at http://127.0.0.1:1: cannot be reached", 3),
    "MLflow of an unknown kind": _tracked("nosuch://x", f'--tracking-uri: "nosuch://x" {NO_MLFLOW}'),
    "MLflow in a folder": _tracked("mlruns", f'--tracking-uri: "mlruns" {NO_MLFLOW}'),
    "MLflow's port": _tracked("http://127.0.0.1:99999", f'--tracking-uri: "http://127.0.0.1:99999" {NO_MLFLOW}'),
    "MLflow without a host": _tracked("http://", f'--tracking-uri: "http://" {NO_MLFLOW}'),
    "PostgreSQL's port": _tracked("postgresql://h:abc/x", f'--tracking-uri: "postgresql://h:abc/x" {NO_MLFLOW}'),
    "sqlite in memory": _tracked("sqlite://", f'--tracking-uri: "sqlite://" {NO_MLFLOW}'),
    "another database": _tracked("mysql://me:secret@h/x", f'--tracking-uri: "mysql://h/x" {NO_MLFLOW}'),
    "MLflow of a kind that no run reaches": Case(
        ("run", "mine.yaml"), NO_MLFLOW, GRID, {"MLFLOW_TRACKING_URI": "nosuch://x"}
    ),
    "server for its database": Case(
        ("db", "upgrade"),
        "http://127.0.0.1:1 is a server, and the schema is its database's",
        settings={"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"},
    ),
    "dashboard": Case(
        ("list",), "Ray at http://127.0.0.1:1: cannot be reached", settings={"RAY_API_SERVER_ADDRESS": "127.0.0.1:1"}
    ),
    "dashboard's port": Case(
        ("status",),
        '--address: "http://127.0.0.1:http" is no address; expected HOST:PORT',
        settings={"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:http"},
    ),
}

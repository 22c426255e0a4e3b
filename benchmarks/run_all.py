"""Run all benchmarks one after the other and print one table of all goals: `make bench`.

    .venv/bin/python benchmarks/run_all.py [NAME ...]

A missed goal is a valid result. The exit code is 1 only if a benchmark failed.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent
# Every script here except the helpers and this file is a benchmark.
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith(("_", "run_all")))


def run(name: str) -> dict[str, object] | None:
    """Run one benchmark and print its output; return its last line as an object, or None if it failed."""
    last = ""
    process = subprocess.Popen([sys.executable, str(FOLDER / f"{name}.py")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line if line.strip() else last
    if process.wait() != 0:
        return None
    try:
        result: dict[str, object] = json.loads(last)
    except ValueError:
        return None
    return result


def main() -> None:
    names = sys.argv[1:] or NAMES
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    print(f"{time.strftime('%Y-%m-%d')}, {len(os.sched_getaffinity(0))} CPUs")
    results = {}
    for name in names:
        print(f"\n=== {name} ===", flush=True)
        started = time.perf_counter()
        results[name] = run(name)
        print(f"({name}: {time.perf_counter() - started:.0f} s)", flush=True)
    table = Table("benchmark", "goal", "figure", "to reach", "reached")
    for name, result in results.items():
        goals = result.get("goals") if result else None
        if not isinstance(goals, list) or not goals:
            table.add_row(
                name, "-", "-", "-", f"not measured: {result.get('skipped', 'no goals') if result else 'failed'}"
            )
            continue
        for goal in goals:
            limit = f"{'>=' if goal['least'] else '<='} {goal['limit']:g}"
            table.add_row(name, goal["text"], f"{goal['figure']:.4g}", limit, "yes" if goal["reached"] else "NO")
    Console(width=150).print(table)
    sys.exit(any(result is None for result in results.values()))


if __name__ == "__main__":
    main()

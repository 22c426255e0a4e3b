"""Runs plans on Ray. The only package that imports Ray; whoever only looks after jobs does not wait for torch."""

from pld_grid.schedule.cluster import (
    RAY_BYTES,
    check_address,
    check_devices,
    check_resources,
    check_workers,
    cluster,
    local_cpus,
    local_memory,
    slots,
)
from pld_grid.schedule.jobs import Job, Jobs, size_limit
from pld_grid.schedule.measure import Worker, inspect, measure_costs
from pld_grid.schedule.waves import run_plan

__all__ = [
    "RAY_BYTES", "Job", "Jobs", "Worker", "check_address", "check_devices", "check_resources", "check_workers",
    "cluster", "inspect", "local_cpus", "local_memory", "measure_costs", "run_plan", "size_limit", "slots",
]  # fmt: skip

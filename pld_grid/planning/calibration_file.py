"""Calibrations: what the parts of cohorts cost on one kind of device, as files in the store."""

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from pld_grid.experiment.cell import Count, NonNegative, StrictModel
from pld_grid.experiment.machine import MachineSettings
from pld_grid.store import Store
from pld_grid.store.schema import WholeNumber

FOLDER = "calibration"
# Settings of the machine that decide how fast a part runs.
_SPEED_SETTINGS = (
    "cpus_per_cohort",
    "gpus_per_cohort",
    "loader_workers",
    "prefetch_batches",
    "channels_last",
    "compile",
)
# The limit is far beyond any device, yet sums and products of such numbers stay finite.
Seconds = Annotated[NonNegative, Field(le=1e9)]


class Rate(StrictModel):
    """The measured cost of one part. Seconds are per image, except those of a checkpoint and of `setup`.

    `resident_bytes` are held during the whole training, `peak_bytes` in addition while the part runs. `loading` also
    records how many images the splits have. A part that does not fit into a slot's memory has no figures.
    """

    what: str
    fits: bool = True
    train_seconds: Seconds = 0.0
    validation_seconds: Seconds = 0.0
    setup_seconds: Seconds = 0.0
    checkpoint_seconds: Seconds = 0.0
    resident_bytes: WholeNumber = 0
    peak_bytes: WholeNumber = 0
    train_images: WholeNumber = 0
    validation_images: WholeNumber = 0


class Calibration(StrictModel):
    """Parts measured on one kind of device with all its slots busy, under one set of machine settings.

    `measured` is the date of the last measurement and `commit` the version of the code. `memory_bytes` is a slot's
    share of the device, `base_bytes` what a trial holds before it has a model. `start_seconds` are spent once per run,
    `wave_seconds` before the first student of a wave trains.
    """

    device: str
    measured: str
    commit: str
    machine: MachineSettings
    slots: Annotated[Count, Field(le=2**53)]
    memory_bytes: WholeNumber
    base_bytes: WholeNumber
    start_seconds: Seconds
    wave_seconds: Seconds
    rates: dict[str, Rate]


def save_calibration(store: Store, calibration: Calibration) -> None:
    """Write a calibration to the store; it replaces the one of the same device and settings."""
    slug = "-".join("".join(c if c.isalnum() else " " for c in calibration.device).lower().split())
    identity = json.dumps([calibration.device, *_speed_settings(calibration.machine)])
    store.write_model(calibration, FOLDER, f"{slug}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}.json")


def load_calibrations(store: Store, machine: MachineSettings) -> Iterator[Calibration]:
    """Yield the store's calibrations that were made under the same settings, ordered by device."""
    for name in sorted(store.names(FOLDER)):
        if name.endswith(".json"):
            calibration = store.read_model(Calibration, FOLDER, name)
            if calibration is not None and _speed_settings(calibration.machine) == _speed_settings(machine):
                yield calibration


def find_calibration(store: Store, machine: MachineSettings, device: str | None = None) -> Calibration | None:
    """Return the calibration of a device; without a device, the only one that the store has."""
    matches = [each for each in load_calibrations(store, machine) if device is None or each.device == device]
    return matches[0] if len(matches) == 1 else None


def _speed_settings(machine: MachineSettings) -> list[Any]:
    return [getattr(machine, name) for name in _SPEED_SETTINGS]

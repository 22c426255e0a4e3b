"""The device that a cohort runs on, and how it says that its memory is full."""

import errno
import re

import torch

from pld_grid.machine import MachineSettings

# torch, its libraries and loader processes have no common error for it. The last is oneDNN's: it can get no room for a
# kernel (what it cannot do at all is "a primitive descriptor").
_FULL = re.compile("out of memory|allocate memory|alloc_failed|could not create a primitive$")


def device_of(machine: MachineSettings) -> torch.device:
    """The device that cohorts run on under these settings."""
    return torch.device("cuda" if machine.gpus_per_cohort and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else "CPU"


def out_of_memory(error: BaseException | None) -> bool:
    """Whether a device or this process has no more memory to give, be it behind an error that it led to."""
    if error is None:
        return False
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError | OSError) and _FULL.search(str(error).lower()):
        return True
    before = error.__cause__
    # torch.save, for one, fails in its clean-up after it could get no memory.
    if before is None and isinstance(error, RuntimeError) and not error.__suppress_context__:
        before = error.__context__
    return out_of_memory(before)

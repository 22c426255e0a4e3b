"""Choose the device that a cohort runs on, and recognize its out-of-memory errors."""

import errno
import re

import torch

from pld_grid.experiment.machine import MachineSettings

# torch, its libraries and loader processes share no error type for it. The last message is oneDNN's when it has no room
# for a kernel; a kernel that it does not support is "a primitive descriptor".
_OUT_OF_MEMORY = re.compile("out of memory|allocate memory|alloc_failed|could not create a primitive$")


def resolve_device(machine: MachineSettings) -> torch.device:
    """Return the device that cohorts run on under these settings."""
    return torch.device("cuda" if machine.gpus_per_cohort and torch.cuda.is_available() else "cpu")


def get_device_name(device: torch.device) -> str:
    """Return the name of the GPU or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else "CPU"


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or an error that led to it, means that the device or this process has no memory left."""
    if error is None:
        return False
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError | OSError) and _OUT_OF_MEMORY.search(str(error).lower()):
        return True
    cause = error.__cause__
    # torch.save, for one, fails in its clean-up after an out-of-memory error.
    if cause is None and isinstance(error, RuntimeError) and not error.__suppress_context__:
        cause = error.__context__
    return is_out_of_memory(cause)

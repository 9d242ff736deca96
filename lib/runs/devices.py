"""The one place that decides where a run is computed and how many threads it may use.

Threads times processes never exceed the cores: two processes of two threads each on two cores run
a base model at a quarter of the speed of two processes of one.
"""

import os

import torch

# not Apple's mps, which has no 64-bit floats: losses are summed in them
DEVICES = ("auto", "cpu", "cuda")


class DeviceUnavailable(ValueError):
    """A device that was asked for by name and is not there."""


class CoresUnclear(ValueError):
    """A number of cores in the environment that is none."""


def choose(wanted: str = "auto") -> torch.device:
    """The device of a word in DEVICES. Raises DeviceUnavailable for one that is not here."""
    here = {"cpu": True, "cuda": torch.cuda.is_available()}
    if wanted == "auto":
        wanted = next(name for name in ("cuda", "cpu") if here[name])
    if wanted not in here:
        raise DeviceUnavailable(f"device is {wanted!r}; allowed: {', '.join(DEVICES)}")
    if not here[wanted]:
        there = ", ".join(name for name, found in here.items() if found)
        raise DeviceUnavailable(f"device {wanted!r} is not on this machine; here: auto, {there}")
    return torch.device(wanted)


def spoken(device: torch.device) -> str:
    """A device as it is recorded: its type, and which accelerator."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return device.type


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(processes: int) -> dict[str, str]:
    """Environment variables that keep ``processes`` children within the cores.

    Raises CoresUnclear for a DEPTH_CORES that is no number.
    """
    given = os.environ.get("DEPTH_CORES", "")
    if given and not (given.isdecimal() and int(given)):
        raise CoresUnclear(f"DEPTH_CORES is {given!r}; allowed: a whole number of at least 1")
    cores = int(given or _cores())
    threads = str(max(1, cores // max(1, processes)))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "DEPTH_CORES")
    return {**dict.fromkeys(names, threads), "OMP_WAIT_POLICY": "PASSIVE"}

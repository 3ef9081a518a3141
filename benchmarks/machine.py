"""Description of the machine for records: processor, threads, load, versions, memory; no host name and no paths."""

from __future__ import annotations

import os
import platform
import resource
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine and its software, for comparing records of different machines."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("torch", "transformers", "numpy")},
    }


def load_average() -> float | None:
    """Mean number of running and waiting processes over the last minute; None if the system does not provide it."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def peak_memory(device: torch.device) -> dict[str, int]:
    """Peak memory since the process began, in bytes: of the process, and of the GPU if that is the device."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"process": peak if sys.platform == "darwin" else peak * 1024}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.max_memory_allocated(device)
    return found


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"

"""Describe the machine of a measurement."""

from __future__ import annotations

import os
import platform
from typing import Any

from pvtctl.io.machine import cpu_name, cpus_usable, total_memory


def describe_machine(device: str) -> dict[str, Any]:
    """Plain JSON: system, CPU, cores, memory, library versions, and the GPU when `device` is one."""
    import torch

    machine: dict[str, Any] = {
        "system": platform.platform(terse=True),
        "cpu": cpu_name(),
        "cpu_cores": os.cpu_count(),
        "cpu_cores_usable": cpus_usable(),
        "memory_bytes": total_memory(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": device,
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(torch.device(device))
        machine |= {"gpu": properties.name, "gpu_memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
        machine |= {
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
            "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        }
    return machine

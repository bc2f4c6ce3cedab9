"""Software, hardware and settings of a run, recorded to explain differences between runs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import pvtctl
from pvtctl.io.allocator import allocator_state
from pvtctl.io.machine import cpu_name
from pvtctl.io.urls import without_secrets

_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "timm",
    "transformers",
    "safetensors",
    "webdataset",
    "onnxruntime",
)
_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LD_PRELOAD", "PYTORCH_CUDA_ALLOC_CONF", "CUDA_VISIBLE_DEVICES")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Versions, machine, source state, command line and settings that affect speed or memory, as plain JSON values."""
    return {
        "pvtctl": pvtctl.__version__,
        "source": _source_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,  # type: ignore[no-untyped-call]
        "deterministic": torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic,
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "allocator": allocator_state(),
        "settings": {
            name: without_secrets(value)
            for name, value in sorted(os.environ.items())
            if name in _SETTINGS or name.startswith(("MALLOC_", "GLIBC_", "PVTCTL_"))
        },
        "argv": [*map(without_secrets, sys.argv)],
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _source_state() -> dict[str, Any] | None:
    """Commit of the package's checkout and whether files differ from it; None when installed."""
    folder = Path(pvtctl.__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A virtual environment may be inside another repository: only one that tracks the package's files counts.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return {"commit": git("rev-parse", "HEAD"), "changed_files": len((git("status", "--porcelain") or "").splitlines())}

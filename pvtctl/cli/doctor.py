"""`pvtctl doctor`: check this machine and environment."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import typer

from pvtctl.cli._console import print_json, table
from pvtctl.cli._options import AS_JSON, App
from pvtctl.errors import ExitCode
from pvtctl.io.console import say
from pvtctl.io.foreign import reason_of
from pvtctl.io.machine import BF16_FLAGS, available_memory, cpu_flags, memory_limit
from pvtctl.io.names import plural

app = App()

_VARIABLES = {
    "PVTCTL_DATA": "folder that holds data sets by name; else ./data",
    "PVTCTL_RUNS": "folder for runs; else ./runs",
    "PVTCTL_CACHE": "folder for fetched weights; else the user's cache folder",
    "PVTCTL_STATE": "folder that remembers the modules you have named; else the user's state folder",
    "PVTCTL_FAST_CPU": "0: models run on PyTorch's own kernels only",
    "PVTCTL_MIRROR": "address to fetch weights and data from; else the publishers'",
    "HF_HOME": "folder of huggingface_hub, whose cached weights are used; else ~/.cache/huggingface",
    "HF_ENDPOINT": "address to fetch `timm:` and `hf:` weights from; else the public Hub",
    "HF_HUB_OFFLINE": "1: weights of the Hub are never fetched",
    "PVTCTL_PATIENCE": "minutes that a process of a distributed run waits for the others; else 30",
    "PVTCTL_MALLOC": "`system` leaves the memory allocator unchanged; else freed memory is kept",
    "PVTCTL_DEBUG": "anything: show the traceback of an error",
    "OMP_NUM_THREADS": "CPU threads per process; else one per core",
    "CUDA_VISIBLE_DEVICES": "visible GPUs; else all",
}
_FOR_DEVELOPERS = ("test", "dev")
_LOW_DISK_GB = 5


@dataclass(frozen=True)
class Finding:
    """One line of the report. `status`: ok, note (works, but could be better) or broken."""

    item: str
    value: str
    status: str = "ok"
    hint: str | None = None


@app.command(epilog="Exit code 1 when something is broken, 0 otherwise. Example: pvtctl doctor --json > machine.json")
def doctor(
    measure: bool = typer.Option(True, help="Time matrix products and a copy in memory (about two seconds)."),
    calibrate: bool = typer.Option(False, help="Measure again which CPU kernels are fast here (some 20 seconds)."),
    as_json: bool = AS_JSON,
) -> None:
    """Report what this machine and environment can do: versions, devices, speed, extras, folders, data, weights."""
    parts: list[tuple[str, Callable[[], list[Finding]]]] = [("environment", _python), ("environment", _libraries)]
    findings = [(part, found) for part, look in parts for found in _tried(look)]
    parts = [
        ("extras", _extras),
        ("folders", _folders),
        ("variables", _variables),
        ("data", _data),
        ("weights", _weights),
    ]
    if not any(found.status == "broken" for _, found in findings):  # these need torch
        measured = [("measured", _measured)] if measure else []
        kernels = functools.partial(_kernels, calibrate)
        parts = [("machine", _machine), *measured, ("CPU kernels", kernels), *parts]
    findings += [(part, found) for part, look in parts for found in _tried(look)]
    broken = sum(found.status == "broken" for _, found in findings)
    if as_json:
        print_json({"ok": not broken, "findings": [{"part": part, **asdict(found)} for part, found in findings]})
    else:
        rows, last = [], ""
        for part, found in findings:
            mark = {"ok": "", "note": "note", "broken": "BROKEN"}[found.status]
            text = f"{found.value}\n-> {found.hint}" if found.hint else found.value
            rows.append([part if part != last else "", found.item, text, mark])
            last = part
        table("", ["part", "item", "found", "verdict"], rows)
        say(f"{broken} broken: see BROKEN above" if broken else "nothing is broken")
    if broken:
        raise typer.Exit(ExitCode.FAILED)


def _tried(look: Callable[[], list[Finding]]) -> list[Finding]:
    """Findings of `look`; an exception becomes a finding, so that the other checks still run."""
    try:
        return look()
    except OSError as error:
        return [Finding("(cannot be examined)", f"{error.filename} {reason_of(error)}", "note")]
    except Exception as error:
        return [Finding("(cannot be examined)", f"{type(error).__name__}: {error}", "broken")]


def _python() -> list[Finding]:
    import platform

    from pvtctl import __version__
    from pvtctl.recipe.source import recipe_names, recipes_folder

    recipes = len(recipe_names())
    python = Finding("python", f"{platform.python_version()} ({sys.executable})")
    good = sys.version_info >= (3, 11)
    if not good:
        python = replace(python, status="broken", hint="pvtctl needs Python 3.11 or newer")
    shipped = Finding("recipes", f"{recipes} in {recipes_folder()}")
    if not recipes:
        shipped = replace(shipped, status="broken", hint="reinstall: pip install --force-reinstall pvtctl")
    return [
        Finding("pvtctl", f"{__version__} in {Path(__file__).parents[1]}"),
        python,
        Finding("system", platform.platform(terse=True)),
        shipped,
    ]


def _libraries() -> list[Finding]:
    """Required libraries; importing torchvision also checks that it fits torch."""
    import importlib

    found = []
    for name in ("torch", "torchvision", "numpy", "PIL", "safetensors", "scipy", "matplotlib", "fvcore"):
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a broken installation can raise anything
            text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            package = "pillow" if name == "PIL" else name
            found.append(Finding(name, text, "broken", f"pip install --force-reinstall {package}"))
        else:
            version = getattr(module, "__version__", None) or importlib.metadata.version(name)
            found.append(Finding(name, str(version)))
    return found


def _machine() -> list[Finding]:
    import torch

    from pvtctl.io.allocator import allocator_state, keep_memory
    from pvtctl.latency.machine import describe_machine

    machine = describe_machine("cpu")
    cores, threads = machine["cpu_cores_usable"], torch.get_num_threads()
    flags = cpu_flags()
    bf16 = sorted(flags & BF16_FLAGS)
    found = [
        Finding("cpu", f"{machine['cpu']}, {cores} of {plural(machine['cpu_cores'], 'core')} usable"),
        Finding("threads", f"{threads}, fewer than cores" if threads < cores else str(threads)),
        Finding("vector width", str(machine["cpu_capability"])),
        Finding(
            "bf16 on the cpu", ", ".join(bf16) if bf16 else "no instructions: fp32 is used" if flags else "unknown"
        ),
        Finding("memory", _memory(machine["memory_bytes"])),
    ]
    if torch.cuda.is_available():
        for at in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(at)
            text = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
            found.append(Finding(f"cuda:{at}", text))
    elif torch.backends.mps.is_available():
        found.append(Finding("mps", "Apple GPU"))
    else:
        found.append(Finding("gpu", "none: fine for trials, latency and small training"))
    keep_memory()
    kept = allocator_state() == "kept"
    meaning = "freed memory stays with the process" if kept else "unchanged"
    found.append(Finding("allocator", f"{allocator_state()} ({meaning})"))
    return found


def _kernels(calibrate: bool) -> list[Finding]:
    """The kernels that are taken, and with `calibrate` the measurements behind them."""
    from pvtctl.models.fast_cpu import calibrate as calibration
    from pvtctl.models.fast_cpu.choices import SWITCH, active, choices_file, is_measured, is_off, remembered

    if is_off():
        hint = f"unset {SWITCH} to measure them" if calibrate else None
        return [Finding("taken", f"{active()}, since {SWITCH} is 0", "note" if calibrate else "ok", hint)]
    timings = []
    if calibrate:
        share = calibration.busy_share()
        timings = calibration.calibrate(lambda step: say(f"measuring {step}")).timings
    taken = Finding("taken", str(active()))
    if calibrate and share > calibration.BUSY:
        text = f"{taken.value}; other programs used {share:.0%} of this machine"
        taken = Finding("taken", text, "note", "pvtctl doctor --calibrate when it is idle")
    if not calibrate and not is_measured():
        hint = "pvtctl doctor --calibrate; eval, predict and latency do it when first used"
        what = "this machine is not measured yet" if remembered() is None else "an earlier version measured fewer"
        return [replace(taken, value=f"{taken.value}: {what}", status="note", hint=hint)]
    found = [taken, Finding("kept in", str(choices_file()))]
    for each in timings:
        ratio = each.fast_ms / each.plain_ms
        text = f"{each.fast_ms:.3g} ms, plain {each.plain_ms:.3g}: {ratio:.2f} of it"
        found.append(Finding(f"{each.kernel}, {each.case}", text))
    return found


def _memory(total: int | None) -> str:
    """Total and available memory, and a container's limit if lower."""
    limit, available = memory_limit(), available_memory()
    parts = [f"{total / 2**30:.1f} GiB"] if total else []
    if limit is not None and (not total or limit < total):
        parts.append(f"{limit / 2**30:.1f} GiB allowed in this container")
    if available is not None:
        parts.append(f"{available / 2**30:.1f} GiB available")
    return ", ".join(parts) or "unknown"


def _measured() -> list[Finding]:
    import torch

    from pvtctl.engine.precision import choose_precision
    from pvtctl.latency.ceilings import copy_gb_s, matmul_gflops

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16}
    found = [
        Finding(f"matrix product, {name}", f"{matmul_gflops(device, kind):.3g} GFLOP/s on {device}")
        for name, kind in formats.items()
    ]
    found.append(Finding("memory, copying", f"{copy_gb_s(device):.3g} GB/s read or written on {device}"))
    return [*found, Finding("precision that training picks", str(choose_precision("auto", device)))]


def _extras() -> list[Finding]:
    """Optional dependencies listed in the package metadata."""
    try:
        required = importlib.metadata.requires("pvtctl") or []
    except importlib.metadata.PackageNotFoundError:
        note = "pvtctl is not installed here, so its extras are not known"
        return [Finding("metadata", note, "note", "pip install -e .")]
    packages: dict[str, list[str]] = {}
    for line in required:
        match = re.match(r"([\w.-]+).*;\s*extra\s*==\s*['\"](\w+)['\"]", line)
        if match and match[2] not in _FOR_DEVELOPERS:
            packages.setdefault(match[2], []).append(match[1])
    found = []
    for extra, names in packages.items():
        versions = {name: _version(name) for name in names}
        missing = [name for name, version in versions.items() if version is None]
        text = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
        hint = f"pip install 'pvtctl[{extra}]'" if missing else None
        found.append(Finding(extra, text, "note" if missing else "ok", hint))
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _folders() -> list[Finding]:
    from pvtctl.weights.catalogue import cache_folder

    data = Path(os.environ.get("PVTCTL_DATA") or "data")
    folders = {"data": data, "runs": Path(os.environ.get("PVTCTL_RUNS") or "runs"), "weights": cache_folder()}
    found = []
    for name, folder in folders.items():
        try:
            place = folder.expanduser().resolve()
            existing = next(parent for parent in (place, *place.parents) if parent.exists())
        except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
            found.append(Finding(name, f"{folder} {reason_of(error)}", "note"))
            continue
        free = shutil.disk_usage(existing).free / 1e9
        state = "" if place.is_dir() else ", not there yet"
        status, hint = "ok", None
        if name != "data" and not os.access(existing, os.W_OK):
            status, hint = "note", f"{existing} cannot be written"
        elif name == "data" and os.environ.get("PVTCTL_DATA") and not place.is_dir():
            status, hint = "note", "PVTCTL_DATA names a folder that is not there"
        elif free < _LOW_DISK_GB:
            status, hint = "note", "little space is left: checkpoints of a run take a few hundred MB"
        found.append(Finding(name, f"{place}{state}, {free:.0f} GB free", status, hint))
    return found


def _variables() -> list[Finding]:
    return [
        Finding(name, f"{os.environ[name]!r}" if name in os.environ else f"not set ({meaning})")
        for name, meaning in _VARIABLES.items()
    ]


def _data() -> list[Finding]:
    """Folders with a `train` or `val` folder, in the places searched for data sets."""
    from pvtctl.data.find import data_places

    bases = list(dict.fromkeys(place.parent for place in data_places("imagenet")))
    places = list(bases)
    found = []
    while places:
        folder = places.pop(0)
        try:
            if folder in bases and folder.is_dir():
                places += sorted(folder.iterdir())
            elif any((folder / split).is_dir() for split in ("train", "val")):
                found.append(Finding(folder.name, str(folder)))
        except OSError as error:
            found.append(Finding(folder.name, f"{folder} {reason_of(error)}", "note"))
    return [*found, Finding("scenes", "built in, needs no files")]


def _weights() -> list[Finding]:
    from pvtctl.weights.catalogue import cached_file, published

    cached = [entry.name for entry in published() if cached_file(entry) is not None]
    text = f"{len(cached)} of {len(published())} published files fetched"
    hint = None if cached else "pvtctl weights ls"
    return [Finding("published", f"{text}{': ' + ', '.join(cached) if cached else ''}", "ok", hint)]

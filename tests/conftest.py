"""Fixtures shared by all tests."""

from __future__ import annotations

import fcntl
import functools
import gc
import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from forked import ForkedPopen
from parity_values import BLOCK, Values
from PIL import Image

# Before torch is imported, here and in the processes that tests start: pytest runs a worker a core, and threads of one that
# wait for a core held by another cost more than they give.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts pytest in the background lets it ignore Ctrl-C, and every process that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if (
    signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
):  # `nohup pytest`: ignored by this process, but not by those it starts
    signal.signal(signal.SIGHUP, lambda *_: None)

ROOT = Path(__file__).resolve().parents[1]

pytest_plugins = ["image_set_fixtures"]

QUICK = ("models", "recipe", "tasks", "engine")
"""Folders of `pytest -m quick`: networks, data and measures of each task, training, recipes; no commands, no whole runs."""
SMALL = ("pvt_tiny", "pvt_v2_b0", "deit_tiny", "resnet18")
"""Of the networks that are held to the originals' numbers, those of `pytest -m quick`."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m quick` does not import the others either."""
    others = collection_path.parent == ROOT / "tests" and collection_path.name not in QUICK
    return True if config.option.markexpr == "quick" and others else None


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """What is imported and collected stays until the end: the garbage collector need not look at it again and again, and copies
    of this process (`forked.py`) do not write to it.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 10, 10)
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        large = "kit" in getattr(item, "fixturenames", ()) and not item.name.split("[")[-1].startswith(SMALL)
        if folder in QUICK and not large and item.get_closest_marker("slow") is None:
            item.add_marker("quick")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with parity numbers and small real data sets, which lies beside some checkouts only."""
    folder = ROOT.parent / "shared"
    if not (folder / "parity" / "fill.py").is_file():
        pytest.skip("needs the shared parity and data folder beside the checkout")
    return folder


@pytest.fixture(scope="session")
def kit(shared: Path) -> ModuleType:
    """The parity kit's `fill.py`: parameters and inputs of the reference numbers, and the comparison with them."""
    spec = importlib.util.spec_from_file_location("parity_fill", shared / "parity" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    values, large = Values(module), ("weight", (3, BLOCK))
    assert all((values.weight(*large) == module.fill_array(*large, variant)).all() for variant in ("", "faint"))
    module.fill_state_dict = values  # type: ignore[attr-defined]
    return module


MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """`made_once(name, make)`: the folder that `make` has filled, once for all workers of pytest. Read only."""
    top = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        top = top.parent

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = top / name, top / f"{name}.done"
        with (top / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed at it
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session", autouse=True)
def forked_commands() -> Iterator[None]:
    """Commands that are started by tests or by other commands are copies of this process (`forked.py`).

    A test of the launcher and tests of imports start new ones.
    """
    import torch

    # a first backward pass after an export starts threads, and then no copy of this process could train
    torch.ones(1, requires_grad=True).sum().backward()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", ForkedPopen)
        patch.setattr(os, "fsync", lambda handle: None)  # no test cuts the power
        yield


@pytest.fixture(scope="session", autouse=True)
def same_kernels() -> Iterator[None]:
    """CPU kernels that do not depend on what somebody has measured on this machine."""
    import torch

    from pvtctl.models.fast_cpu.choices import before_measurement, using
    from pvtctl.models.fast_cpu.packed import packing_works

    with using(replace(before_measurement(torch.backends.cpu.get_cpu_capability()), packed=packing_works())):
        yield


@pytest.fixture(scope="session", autouse=True)
def one_table_of_onnx_operators() -> Iterator[None]:
    """torch makes its table of ONNX operators, which takes a second, once and not for each file. pvtctl adds none to it."""
    import torch

    export = torch.onnx.export

    def with_table(*args: Any, **options: Any) -> Any:
        from torch.onnx._internal.exporter._registration import ONNXRegistry  # loads onnxscript

        patch.setattr(torch.onnx, "export", export)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        return export(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", with_table)
        yield


@pytest.fixture(scope="session", autouse=True)
def plain_figures() -> Iterator[Callable[..., None]]:
    """PNGs of figures are white, of the right size: laying out and drawing letters was half the time of a training run.

    Gives matplotlib's own way, for `drawn_figures`. Other PNGs are pressed less: that was another tenth of a run.
    """
    from matplotlib.figure import Figure

    whole, save = Figure.savefig, Image.Image.save

    def plain(self: Figure, path: Any, *, format: str, dpi: int, **options: Any) -> None:
        if format != "png":
            whole(self, path, format=format, dpi=dpi, **options)
            return
        size = tuple(int(side * dpi) for side in self.get_size_inches())
        Image.new("RGB", size, "white").save(path, format="PNG")

    def quick(self: Image.Image, path: Any, format: str | None = None, **options: Any) -> None:
        png = (format or Path(str(path)).suffix.removeprefix(".")).lower() == "png"
        save(self, path, format, **options | ({"compress_level": 1} if png else {}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", plain)
        patch.setattr(Image.Image, "save", quick)
        yield whole


@pytest.fixture(autouse=True)
def drawn_figures(
    request: pytest.FixtureRequest, plain_figures: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The views' own tests draw, and tests marked `draws`."""
    views = request.path.parent.name in ("views", "explain") or request.path.stem.endswith("_views")
    if views or request.node.get_closest_marker("draws") is not None:
        from matplotlib.figure import Figure

        monkeypatch.setattr(Figure, "savefig", plain_figures)

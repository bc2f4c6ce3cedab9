"""Training and evaluation of any `Task` (see `protocol.py`), independent of the task.

dist = start_distributed(device)                      # or single("cpu")
run = RunFolder.open(path, recipe_flat, resume=False, dist=dist)
result = fit(task, settings, run, dist, save_weights=save)
metric = evaluate(task, task.model, dist, choose_precision("auto", dist.device))
"""

from pvtctl.engine.distributed import Distributed, launch, single, start_distributed, stop_distributed
from pvtctl.engine.dry_run import DryRunReport, dry_run
from pvtctl.engine.evaluate import evaluate
from pvtctl.engine.fit import fit
from pvtctl.engine.log import Progress
from pvtctl.engine.optim import build_optimizer, describe_lr, parameter_groups, scale_lr
from pvtctl.engine.precision import Precision, choose_precision
from pvtctl.engine.protocol import Metric, Task
from pvtctl.engine.run import RunFolder
from pvtctl.engine.run_files import find_runs, read_info, read_run_recipe
from pvtctl.engine.schedule import Schedule
from pvtctl.engine.settings import FitResult, FitSettings, resolve_batch_size
from pvtctl.engine.step import Ema
from pvtctl.io.stop import Stopped

__all__ = [
    "Distributed",
    "DryRunReport",
    "Ema",
    "FitResult",
    "FitSettings",
    "Metric",
    "Precision",
    "Progress",
    "RunFolder",
    "Schedule",
    "Stopped",
    "Task",
    "build_optimizer",
    "choose_precision",
    "describe_lr",
    "dry_run",
    "evaluate",
    "find_runs",
    "fit",
    "launch",
    "parameter_groups",
    "read_info",
    "read_run_recipe",
    "resolve_batch_size",
    "scale_lr",
    "single",
    "start_distributed",
    "stop_distributed",
]

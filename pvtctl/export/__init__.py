"""Models as files for other tools: `torch.export` programs, ONNX, and checkpoints in the layouts of other projects.

>>> from pvtctl.export import export_model
>>> report = export_model(pvtctl.create_classifier("pvt_small", weights="pvt_small.pth"), "pvt_small.onnx")
"""

from __future__ import annotations

from pvtctl.export.check import Check, ExportTiming
from pvtctl.export.layouts import LayoutReport, export_layout
from pvtctl.export.model import ExportReport, export_model

__all__ = ["Check", "ExportReport", "ExportTiming", "LayoutReport", "export_layout", "export_model"]

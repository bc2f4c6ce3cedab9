"""What the ONNX exporter of the oldest torch lacks; the commands say so in a line (tests/cli/test_export_command.py)."""

from __future__ import annotations

import pytest
import torch

IS_OLDEST = torch.__version__.startswith("2.6.")
writes_batch_norm = pytest.mark.skipif(IS_OLDEST, reason="torch 2.6 has no ONNX form of batch normalisation")
writes_open_sides = pytest.mark.skipif(
    IS_OLDEST, reason="torch 2.6 has no ONNX form of resizing to sides that are open"
)

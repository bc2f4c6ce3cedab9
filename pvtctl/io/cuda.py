"""Settings of CUDA's arithmetic that hold for a whole process. They do nothing where there is no CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def use_tf32(on: bool) -> None:
    """Whether CUDA may use TF32 for fp32 products and convolutions. torch's own default is for convolutions only."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


@contextmanager
def cudnn_search(on: bool) -> Iterator[None]:
    """Whether cuDNN times its algorithms at the first call of each size and keeps the fastest."""
    import torch

    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before

"""Estimate the memory of a detector or dense model from shapes alone, to warn before it runs out.

Forward and backward pass run on the meta device, where tensors have sizes but no memory, and all tensors alive at once
are added up. Losses, optimiser, libraries and allocator overhead are not included: it is a lower bound, meant for
models with extremely large activations, such as ViT-Small/4 at 800 pixels (PVT v1, Table 8).
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pvtctl.cost.outcomes import outcome
from pvtctl.io.machine import memory_limit, total_memory
from pvtctl.models.registry import backbone_spec, head_spec

GIB = 2**30
CLOSE = 0.8
"""Share of the memory above which to warn: weights, optimiser and losses come on top."""


def estimate_memory(
    backbone: str,
    head: str,
    size: tuple[int, int],
    batch_size: int = 1,
    *,
    training: bool,
    num_classes: int | None = None,
    output_stride: int | None = None,
    fused_attention: bool = True,
    bytes_per_number: int = 4,
) -> int:
    """Bytes of activations alive at once, at the peak, of `batch_size` images of `size` (height, width) pixels.

    `head`, `num_classes` and `output_stride` are those of `pvtctl.cost.counting.count`.
    `fused_attention`: the matrix of all tokens against all is never stored, as in torch's fused kernels; otherwise each
    layer's is, and kept for the backward pass in training. Raises UsageError for unknown names.
    """
    from pvtctl.cost.build import build_model, with_raw_outputs
    from pvtctl.models.backbones import prepare_backbones
    from pvtctl.models.fast_cpu import optimize_for_cpu
    from pvtctl.models.layers.shapes import without_values

    with without_values():
        model = build_model(backbone, head, num_classes, output_stride)
        model = optimize_for_cpu(with_raw_outputs(model)).train(training)
    prepare_backbones(model, size)
    images = torch.empty(batch_size, 3, *size, device="meta")
    fused = _FusedAttention() if fused_attention else contextlib.nullcontext()
    with torch.set_grad_enabled(training), _AliveBytes(model) as alive, fused:
        outputs = model(images)
        if training:
            # a scalar from which gradients flow through all raw outputs
            loss = torch.stack([one.float().mean() for one in tree_leaves(outputs)]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
    return alive.peak * bytes_per_number // 4


def memory_at_hand(device: str = "cpu") -> int:
    """Bytes of a GPU's memory, or of this machine's, limited to what its container may use."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory
    return min(filter(None, (total_memory(), memory_limit())), default=sys.maxsize)


def warn_memory(
    backbone: str,
    head: str,
    size: tuple[int, int],
    batch_size: int,
    *,
    training: bool,
    device: str,
    on_warning: Callable[[str], None],
    num_classes: int | None = None,
    output_stride: int | None = None,
) -> None:
    """Call `on_warning` with one line if activations alone will fill the device's memory.

    Only backbones with all tokens on one grid are checked (ViTs and timm's), and heads that make a large map for each of
    `num_classes`: others need far less. Images of `size` are padded to multiples of 32, as in batches. Raises UsageError
    for image sizes that the backbone does not support.
    """
    above = head_spec(head)
    if not backbone_spec(backbone).one_grid and not above.map_per_class:
        return
    padded = (-(-size[0] // 32) * 32, -(-size[1] // 32) * 32)
    try:
        needed = estimate_memory(
            backbone, head, padded, batch_size, training=training, num_classes=num_classes, output_stride=output_stride
        )
    except (NotImplementedError, RuntimeError):  # some timm models cannot run on the meta device
        return
    at_hand = memory_at_hand(device)
    if needed < CLOSE * at_hand:
        return
    where = device if device.startswith("cuda") else "this machine"
    images = "an image" if batch_size == 1 else f"{batch_size} images"
    smaller = "smaller images (data.detection) or larger patches need less"
    if not above.detects:
        what = "size (data.depth.size)" if num_classes is None else "crop (data.segmentation.crop)"
        smaller = f"a smaller {what} or batch needs less"
    on_warning(
        f"memory: {backbone} under {head} needs about {needed / GIB:.0f} GiB for the activations of {images} of "
        f"{size[0]}x{size[1]} in {'training' if training else 'inference'} (float32, fused attention), and {where} has "
        f"{at_hand / GIB:.0f} GiB; {smaller}"
    )


class _FusedAttention(TorchFunctionMode):
    """Scaled dot-product attention as in fused kernels: inputs and output are stored, the products never are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """Shapes of softmax(q k') v and of its gradients."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        q, k, v, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class _AliveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds the size of storages created by operations and subtracts it when they are freed; views of weights are none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = {each.untyped_storage()._cdata for each in (*model.parameters(), *model.buffers())}
        self.peak = 0
        self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = outcome(func, args, kwargs or {})
        for storage in (tensor.untyped_storage() for tensor in tree_leaves(out) if isinstance(tensor, Tensor)):
            if (key := storage._cdata) not in self._sizes and key not in self._weights:
                self._sizes[key] = storage.nbytes()
                self._now += self._sizes[key]
                self.peak = max(self.peak, self._now)
                weakref.finalize(storage, self._free, key)
        return out

    def _free(self, key: int) -> None:
        self._now -= self._sizes.pop(key)

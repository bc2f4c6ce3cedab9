"""DETR's loss: bipartite matching of ground-truth objects and queries; unmatched queries learn the no-object class.

DETR sections 3.1 and A.2; the weights are those of its code: classes 1 (no-object 0.1), L1 5, generalised IoU 2, the same
for matching and loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

CLASS_COST, L1_WEIGHT, GIOU_WEIGHT = 1.0, 5.0, 2.0
NO_OBJECT_WEIGHT = 0.1
RECALL_IOU = 0.5


def set_losses(logits: Tensor, boxes: Tensor, labels: Sequence[Tensor], truth: Sequence[Tensor]) -> dict[str, Tensor]:
    """`loss_cls`, `loss_box` and `loss_giou`, each the sum over all decoder layers, and `recall` of the last one.

    `logits` (L, B, Q, K + 1), no-object last; `boxes` (L, B, Q, 4) cxcywh relative to the image, L decoder layers,
    Q queries. `labels` and `truth` hold an image's (N,) classes and (N, 4) boxes in the same form. Box losses are divided
    by the number of objects in the batch, the mean over all ranks. `recall` is the share of ground-truth objects whose query
    has the right class above all others, no-object included, and a box of IoU above 0.5; 1 where there are no objects.
    Predictions that are not finite give losses that are not finite.
    """
    layers, outputs = logits.shape[0], logits.shape[-1]
    matches = match_queries(logits.detach(), boxes.detach(), labels, truth)
    layer = torch.cat([torch.full_like(query, i) for i, row in enumerate(matches) for query, _ in row])
    image = torch.cat([torch.full_like(query, b) for row in matches for b, (query, _) in enumerate(row)])
    query = torch.cat([query for row in matches for query, _ in row])
    starts = np.cumsum([0, *(len(one) for one in labels)])
    number = torch.cat([found + int(starts[b]) for row in matches for b, (_, found) in enumerate(row)])
    device = logits.device
    # one transfer, for which the host does not wait
    layer, image, query, number = torch.stack((layer, image, query, number)).to(device, non_blocking=True)
    true_labels, true_boxes = torch.cat(list(labels))[number], torch.cat(list(truth))[number]

    classes = torch.full(logits.shape[:3], outputs - 1, dtype=torch.int64, device=device)
    classes[layer, image, query] = true_labels
    weights = logits.new_ones(outputs)
    weights[-1:].fill_(NO_OBJECT_WEIGHT)
    entropy = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), weights, reduction="none")
    per_layer = entropy.view(layers, -1).sum(1) / weights[classes].view(layers, -1).sum(1)

    found_boxes = boxes[layer, image, query]
    objects = _mean_over_ranks(float(starts[-1]), device)
    iou, giou = paired_iou(found_boxes, true_boxes)
    right = logits.detach()[layer, image, query].argmax(-1) == true_labels
    recognised = (layer == layers - 1) & right & (iou.detach() > RECALL_IOU)
    recall = recognised.sum() / int(starts[-1]) if starts[-1] else logits.new_ones(())
    return {
        "loss_cls": CLASS_COST * per_layer.sum(),
        "loss_box": L1_WEIGHT * (found_boxes - true_boxes).abs().sum() / objects,
        "loss_giou": GIOU_WEIGHT * (1 - giou).sum() / objects,
        "recall": recall,
    }


@torch.no_grad()
def match_queries(
    logits: Tensor, boxes: Tensor, labels: Sequence[Tensor], truth: Sequence[Tensor]
) -> list[list[tuple[Tensor, Tensor]]]:
    """[layer][image] -> the matched queries, ascending, and the object of each; both int64 (min(Q, N),), on the CPU.

    Arguments as in `set_losses`. The assignment minimises -probability + 5 L1 - 2 generalised IoU.
    """
    layers, batch, queries = logits.shape[:3]
    probabilities = logits.softmax(-1)
    costs = []
    for b in range(batch):
        found = boxes[:, b].flatten(0, 1)
        by_class = probabilities[:, b].flatten(0, 1)[:, labels[b]]
        overlap = generalized_box_iou(box_convert(found, "cxcywh", "xyxy"), box_convert(truth[b], "cxcywh", "xyxy"))
        cost = L1_WEIGHT * torch.cdist(found, truth[b], p=1) - CLASS_COST * by_class - GIOU_WEIGHT * overlap
        costs.append(cost.flatten())
    # One transfer from the device for all layers and images. Costs that are not finite stop the solver: as the very lowest
    # they get matched, and the loss is not finite either.
    flat = torch.cat(costs).nan_to_num(nan=-1e9, posinf=-1e9, neginf=-1e9).cpu().numpy()
    counts = [len(one) for one in labels]
    parts = np.split(flat, np.cumsum([layers * queries * count for count in counts])[:-1])
    tables = [part.reshape(layers, queries, count) for part, count in zip(parts, counts, strict=True)]
    solved = [[linear_sum_assignment(table[i]) for table in tables] for i in range(layers)]
    return [[(torch.from_numpy(q).long(), torch.from_numpy(found).long()) for q, found in row] for row in solved]


def paired_iou(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (N,) of each box of `first` (N, 4) cxcywh with the same row of `second`."""
    first, second = box_convert(first, "cxcywh", "xyxy"), box_convert(second, "cxcywh", "xyxy")
    sides = (torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])).clamp(min=0)
    hull = torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])
    inside = sides.prod(1)
    union = (first[:, 2:] - first[:, :2]).prod(1) + (second[:, 2:] - second[:, :2]).prod(1) - inside
    around, smallest = hull.prod(1), torch.finfo(union.dtype).tiny
    iou = inside / union.clamp(min=smallest)
    return iou, iou - (around - union) / around.clamp(min=smallest)


def _mean_over_ranks(objects: float, device: torch.device) -> Tensor:
    """Number of objects in a rank's batch, the mean over all ranks, at least 1."""
    count = torch.full((), objects, device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp(min=1)

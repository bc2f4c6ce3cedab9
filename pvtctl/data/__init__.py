"""Data sets to batches: the ImageNet layout, tar shards and the built-in scenes, for training and evaluation."""

from pvtctl.data.dataset import (
    DATA_NAMES,
    Batch,
    ClassificationDataset,
    Sample,
    Skipped,
    find_data,
    fingerprint,
    open_split,
)
from pvtctl.data.imagenet import imagenet_classes, imagenet_indices, readable_name, wnid_to_index
from pvtctl.data.loader import Loader, build_loader, default_workers
from pvtctl.data.mixup import Mixup
from pvtctl.data.samplers import Draw, EvalSampler, GroupedTrainSampler, TrainSampler
from pvtctl.data.transforms import IMAGENET_MEAN, IMAGENET_STD

__all__ = [
    "DATA_NAMES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Batch",
    "ClassificationDataset",
    "Draw",
    "EvalSampler",
    "GroupedTrainSampler",
    "Loader",
    "Mixup",
    "Sample",
    "Skipped",
    "TrainSampler",
    "build_loader",
    "default_workers",
    "find_data",
    "fingerprint",
    "imagenet_classes",
    "imagenet_indices",
    "open_split",
    "readable_name",
    "wnid_to_index",
]

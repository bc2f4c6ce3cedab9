"""Reading training images: from the files to a collated batch, each task's whole pipeline, on one core.

Ours is what a loader process runs. The other is written from torchvision's public transforms as its reference scripts combine
them (`references/{classification,detection,segmentation}`), at our sizes; it has no script for depth, so its transforms take
the part of ours. With the colour changes of our recipes and without, as torchvision's scripts leave them out.
Both read the same files: JPEGs with the spectrum of photographs, maps as PNGs. A call is one batch.
"""

from __future__ import annotations

import cProfile
import io
import json
import pstats
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

IMAGES = {"classification": 64, "detection": 8, "segmentation": 16, "depth": 16}
"""Of a batch, and of the set: each call reads all files."""
SIZES = {
    "classification": (375, 500),
    "detection": (480, 640),
    "segmentation": (512, 683),
    "depth": (480, 640),
}
"""(height, width) of the files: the usual ones of ImageNet, COCO, ADE20K and NYUv2."""
PARTS = {
    "decode": (("ImageFile.py", "load"), ("Image.py", "open")),
    "resize": (("nn/functional.py", "interpolate"), ("Image.py", "resize")),
    "normalise": (
        ("data/transforms.py", "normalize"),
        ("v2/functional/_misc.py", "normalize_image"),
        ("v2/functional/_misc.py", "to_dtype_image"),
        ("detection/transform.py", "normalize"),
    ),
    "collate": (("data/base.py", "collate"), ("inputs.py", "collated"), ("detection/transform.py", "batch_images")),
}
"""Part of the pipeline -> functions (end of file, name) whose time is that part; the rest is augmentation and overhead."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Batch = Callable[[], object]


def photograph(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """An image with the spectrum of photographs (amplitude 1/f)."""
    height, width = size
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    falloff = 1 / np.maximum(np.hypot(rows, columns), 1 / width)
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((3, height, width))) * falloff).real
    field = (field - field.mean()) / field.std() * 50 + 120
    return Image.fromarray(field.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def write_set(task: str, root: Path) -> None:
    """Files in the task's usual layout: JPEGs of quality 90, with classes, boxes, label maps or depth."""
    rng, (height, width) = np.random.default_rng(0), SIZES[task]
    folders = {
        "classification": ("{}/a",),
        "detection": ("{}2017",),
        "segmentation": ("images/{}", "annotations/{}"),
        "depth": ("{}/rgb", "{}/depth"),
    }[task]
    for folder in folders:
        (root / folder.format("train")).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    boxes = []
    for number in range(IMAGES[task]):
        picture = photograph(rng, (height, width))
        picture.save(root / folders[0].format("train") / f"{number:03d}.jpg", quality=90)
        low = np.asarray(picture.resize((16, 12)).convert("L")).astype(int)
        if task == "segmentation":
            labels = Image.fromarray((low * 149 // 255 + 1).astype(np.uint8)).resize((width, height), 0)
            labels.save(root / folders[1].format("train") / f"{number:03d}.png")
        if task == "depth":
            metres = np.asarray(Image.fromarray((low * 30 + 500).astype(np.int32)).resize((width, height), 1))
            Image.fromarray(metres.astype(np.uint16)).save(root / folders[1].format("train") / f"{number:03d}.png")
        for _ in range(7):
            x, y = float(rng.uniform(0, width - 60)), float(rng.uniform(0, height - 60))
            box = [x, y, float(rng.uniform(20, width - x)), float(rng.uniform(20, height - y))]
            about = {"id": len(boxes) + 1, "image_id": number + 1, "category_id": 1 + len(boxes) % 80, "iscrowd": 0}
            boxes.append({**about, "bbox": box, "area": box[2] * box[3], "segmentation": []})
    if task == "detection":
        images = [
            {"id": at + 1, "file_name": f"{at:03d}.jpg", "height": height, "width": width} for at in range(IMAGES[task])
        ]
        categories = [{"id": at, "name": str(at)} for at in range(1, 81)]
        document = {"images": images, "annotations": boxes, "categories": categories}
        (root / "annotations" / "instances_train2017.json").write_text(json.dumps(document))
    if task == "segmentation":
        (root / "classes.txt").write_text("".join(f"{at + 1} class{at}\n" for at in range(150)))
    if task == "depth":
        (root / "depth.json").write_text('{"scale": 1000}')


RECIPES = {
    "classification": ("imagenet_pvt_v1", "pvt_small", []),
    "detection": ("coco_retinanet_1x", "pvt_small", []),
    "segmentation": ("ade20k_semantic_fpn", "pvt_small", ["data.name=masks"]),
    "depth": ("dpt_backbones", "vit_base_patch16", ["data.name=depth", "data.depth.hflip=0.5"]),
}
COLOURS = {
    "classification": ("data.augment.rand_augment", "data.augment.erasing"),
    "segmentation": ("data.segmentation.photometric",),
    "depth": ("data.depth.photometric",),
}
"""The settings of random changes beyond geometry."""


def ours(task: str, colours: bool, root: Path) -> Batch:
    from pvtctl.data.samplers import Draw
    from pvtctl.recipe.load import load_recipe
    from pvtctl.tasks.from_recipe import open_split

    name, row, settings = RECIPES[task]
    sets = [f"data.path={root}", *settings]
    for key in COLOURS.get(task, ()):
        off = "0" if key.endswith("erasing") else "false"
        sets += [f"{key}={('0.25' if key.endswith('erasing') else 'true') if colours else off}"]
    dataset = open_split(load_recipe(name, row, overrides=sets), "train", "train")
    draws = [Draw(0, index) for index in range(IMAGES[task])]
    return lambda: dataset.collate(dataset.__getitems__(draws))


def torchvision_classification(colours: bool, root: Path) -> Batch:
    from torchvision.datasets import ImageFolder

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(224, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            *([v2.RandAugment(magnitude=9)] if colours else []),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
            *([v2.RandomErasing(0.25)] if colours else []),
        ]
    )
    files = ImageFolder(str(root / "train"), transform)

    def collated(rows: list[Any]) -> object:
        return torch.utils.data.default_collate(rows)

    return lambda: collated([files[index] for index in range(len(files))])


def torchvision_detection(colours: bool, root: Path) -> Batch:
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.SanitizeBoundingBoxes(),
            v2.ToPureTensor(),
        ]
    )
    files: Any = CocoDetection(
        str(root / "train2017"), str(root / "annotations/instances_train2017.json"), transforms=transform
    )
    files = wrap_dataset_for_transforms_v2(files, target_keys=("boxes", "labels"))
    resize = GeneralizedRCNNTransform(800, 1333, list(MEAN), list(STD))  # inside the model, where the batch is made

    def call() -> object:
        images, targets = zip(*(files[index] for index in range(len(files))), strict=True)
        return resize(list(images), list(targets))

    return call


class _Pairs(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Images with maps, as the reference scripts' data sets give them."""

    def __init__(self, images: Path, maps: Path, transform: Any, as_map: Callable[[Image.Image], Any]) -> None:
        self.images, self.maps = sorted(images.iterdir()), sorted(maps.iterdir())
        self.transform, self.as_map = transform, as_map

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        image = Image.open(self.images[index]).convert("RGB")
        return self.transform(v2.functional.to_image(image), self.as_map(Image.open(self.maps[index])))


def _of_pairs(files: _Pairs) -> Batch:
    def collated(rows: list[Any]) -> object:
        return torch.utils.data.default_collate(rows)

    return lambda: collated([files[index] for index in range(len(files))])


def torchvision_segmentation(colours: bool, root: Path) -> Batch:
    transform = v2.Compose(
        [
            v2.RandomResize(256, 1024, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomCrop(512, pad_if_needed=True, fill={tv_tensors.Mask: 255, "others": 0}),
            *([v2.RandomPhotometricDistort()] if colours else []),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
            v2.Normalize(MEAN, STD),
            v2.ToPureTensor(),
        ]
    )
    as_map = lambda image: tv_tensors.Mask(v2.functional.pil_to_tensor(image)[0])  # noqa: E731
    return _of_pairs(_Pairs(root / "images/train", root / "annotations/train", transform, as_map))


def torchvision_depth(colours: bool, root: Path) -> Batch:
    bicubic = v2.InterpolationMode.BICUBIC
    transform = v2.Compose(
        [
            v2.RandomCrop(480),
            v2.Resize((384, 384), interpolation=bicubic, antialias=False),
            v2.RandomHorizontalFlip(),
            *([v2.RandomPhotometricDistort()] if colours else []),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
            v2.ToPureTensor(),
        ]
    )
    as_map = lambda image: tv_tensors.Mask(  # noqa: E731
        torch.from_numpy(np.asarray(image).astype(np.float32) / 1000)
    )
    return _of_pairs(_Pairs(root / "train/rgb", root / "train/depth", transform, as_map))


THEIRS: dict[str, Callable[[bool, Path], Batch]] = {
    "classification": torchvision_classification,
    "detection": torchvision_detection,
    "segmentation": torchvision_segmentation,
    "depth": torchvision_depth,
}


def pipeline(name: str) -> Batch:
    """The call of a contestant: `ours-input depth`, `torchvision-input depth+colours`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side, _, what = name.partition("-input ")
    task, _, colours = what.partition("+")
    folder = tempfile.TemporaryDirectory()
    root = Path(folder.name)
    write_set(task, root)
    batch = ours(task, bool(colours), root) if side == "ours" else THEIRS[task](bool(colours), root)

    def call(_: object = folder) -> object:  # the files stay as long as it does
        return batch()

    return call


def shares(call: Batch) -> dict[str, float]:
    """The share of a call's time that each of PARTS takes, by a profiler; the rest is `augment`."""
    profiler = cProfile.Profile()
    profiler.runcall(lambda: [call() for _ in range(3)])
    stats = pstats.Stats(profiler, stream=io.StringIO())
    whole = stats.total_tt  # type: ignore[attr-defined]
    found = dict.fromkeys(PARTS, 0.0)
    for (file, _, function), (_, _, _, spent, _) in stats.stats.items():  # type: ignore[attr-defined]
        for part, functions in PARTS.items():
            if any(file.endswith(end) and function == name for end, name in functions):
                found[part] += spent / whole
    return found | {"augment": 1 - sum(found.values())}

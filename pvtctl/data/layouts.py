"""Guesses which data set a folder holds from the names of its subfolders; reads no file. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

COCO_LAYOUT = """expected: FOLDER/{train,val}2017/ and FOLDER/annotations/instances_{train,val}2017.json,
      or FOLDER/images/{train,val}/ (or FOLDER/{train,val}/) and FOLDER/annotations/instances_{train,val}.json;
      anything else is named by a pair: --images FOLDER --annotations FILE.json"""


IMAGENET_LAYOUT = """expected: FOLDER/train/CLASS/*.JPEG and FOLDER/val/CLASS/*.JPEG (one folder a class, named by its wnid for ImageNet),
      or tar shards: FOLDER/train/*.tar and FOLDER/val/*.tar"""


SPLITS = ("train", "val", "training", "validation")

DEPTH_FOLDERS = ("depth", "depths")

LABEL_FOLDERS = ("annotations", "labels", "masks")

EXPECTED = {
    "ade20k": "expected: FOLDER/images/{training,validation}/NAME.jpg and FOLDER/annotations/{training,validation}/NAME.png",
    "pascal_context": "expected: FOLDER/JPEGImages/NAME.jpg, FOLDER/SegmentationClassContext/NAME.png and "
    "FOLDER/ImageSets/SegmentationContext/{train,val}.txt",
    "cityscapes": "expected: FOLDER/leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and "
    "FOLDER/gtFine/{train,val}/CITY/*_gtFine_label{Ids,TrainIds}.png",
    "masks": "expected: FOLDER/images/{train,val}/NAME.*, FOLDER/annotations/{train,val}/NAME.png (or labels, or masks) and "
    "FOLDER/classes.txt",
    "nyu": "expected: FOLDER/{train,val}/rgb/NAME.jpg and FOLDER/{train,val}/depth/NAME.png (16 bits, millimetres),\n"
    "      or FOLDER/nyudepthv2_{train,test}_files_with_gt.txt with lines `image depth focal` and the files that they name\n"
    "      (below FOLDER, FOLDER/sync or FOLDER/official_splits/{train,test})",
    "kitti": "expected: FOLDER/eigen_{train,test}_files_with_gt.txt (or data.depth.train_split_file, data.depth.split_file)\n"
    "      with lines `image depth focal`, and the files that they name (below FOLDER, FOLDER/raw, FOLDER/gt or\n"
    "      FOLDER/data_depth_annotated), or FOLDER/{train,val}/rgb/NAME.* and FOLDER/{train,val}/depth/NAME.png (16 bits,\n"
    "      metres x 256)",
    "depth": "expected: FOLDER/{train,val}/rgb/NAME.* (or images) and FOLDER/{train,val}/depth/NAME.{png,tif,npy}, and\n"
    '      data.depth.scale, or FOLDER/depth.json with {"scale": 1000}; FOLDER/rgb and FOLDER/depth can be evaluated',
}
"""Expected layout by data set, for the message when the folder is missing."""

SPLIT_FILES = {
    "nyu": {"train": "nyudepthv2_train_files_with_gt.txt", "val": "nyudepthv2_test_files_with_gt.txt"},
    "kitti": {"train": "eigen_train_files_with_gt.txt", "val": "eigen_test_files_with_gt.txt"},
}
"""Lists of pairs under their usual names, at the top of a set."""


def guess_layout(folder: Path) -> str | None:
    """The data set that a folder holds (`coco`, `ade20k`, ...); None: class folders, as ImageNet's."""
    for name, files in SPLIT_FILES.items():
        if any((folder / file).is_file() for file in files.values()):
            return name
    annotations = folder / "annotations"
    if any(annotations.glob("*.json")):
        return "coco"
    if (folder / "leftImg8bit").is_dir():
        return "cityscapes"
    if (folder / "SegmentationClassContext").is_dir():
        return "pascal_context"
    images = folder / "images"
    if any((images / split).is_dir() for split in ("training", "validation")) and annotations.is_dir():
        return "ade20k"
    if images.is_dir() and _some(folder, LABEL_FOLDERS):
        return "masks"
    if any(_some(place, LABEL_FOLDERS) and (place / "images").is_dir() for place in (folder / "train", folder / "val")):
        return "masks"
    if any((folder / split).is_dir() and (folder / f"{split}annot").is_dir() for split in ("train", "val")):
        return "masks"
    if any(_some(place, DEPTH_FOLDERS) for place in (folder, *(folder / split for split in SPLITS))):
        return "depth"
    return None


def _some(folder: Path, names: Iterable[str]) -> bool:
    return any((folder / name).is_dir() for name in names)

"""Guesses which data set a folder holds from the names of its subfolders; reads no file. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pvtctl.errors import UsageError

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

_COCO_FILES = [f"instances_{split}{year}.json" for split in ("train", "val") for year in ("2017", "")]

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


def require_known_layout(folder: Path) -> None:
    """Raise UsageError for a folder in the layout of another tool that is not read as it is: what it is, what to do."""
    for what, then in _foreign(folder):
        raise UsageError(f"{folder} {what}", then)


def _foreign(folder: Path) -> Iterator[tuple[str, str]]:
    """(what the folder is, what to do) of layouts that are known, and not read."""
    roboflow = [split for split in ("train", "valid", "test") if (folder / split / "_annotations.coco.json").is_file()]
    if roboflow:
        first, last = folder / roboflow[0], folder / roboflow[min(1, len(roboflow) - 1)]
        yield (
            "is a COCO export of Roboflow, with _annotations.coco.json beside the images of each split",
            f"name the files: finetune coco --images {first} --annotations {first}/_annotations.coco.json "
            f"--val-images {last} --val-annotations {last}/_annotations.coco.json",
        )
    files = sorted((folder / "annotations").glob("*.json"))
    if files and not any((folder / "annotations" / name).is_file() for name in _COCO_FILES):
        yield (
            f"holds annotations/{files[0].name}, which is not the file of a split (CVAT exports one for all images)",
            "training needs one file of train and one of val, each with its own `images` and `annotations`: write them as "
            "annotations/instances_train.json and instances_val.json; "
            f"to check it as it is: data check --images DIR --annotations {files[0]}",
        )
    if (folder / "result.json").is_file() and (folder / "images").is_dir():
        yield (
            "is a COCO export of Label Studio: result.json for all images",
            "training needs one file of train and one of val: write them as annotations/instances_train.json and "
            "instances_val.json, with file names below images/",
        )
    if (folder / "JPEGImages").is_dir():
        if (folder / "Annotations").is_dir():
            yield "holds boxes in Pascal VOC's layout", f"pvtctl data convert {folder} --from voc --to NEW"
        elif (folder / "SegmentationClass").is_dir():
            yield (
                "holds label maps in Pascal VOC's layout",
                "put the files that ImageSets/Segmentation lists into images/{train,val}/ and masks/{train,val}/, and write "
                "classes.txt: NUMBER NAME R G B, with the colours of labelmap.txt",
            )


def _some(folder: Path, names: Iterable[str]) -> bool:
    return any((folder / name).is_dir() for name in names)

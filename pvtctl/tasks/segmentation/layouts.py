"""Finds images and label maps of a split, in the known layouts and in plain folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pvtctl.data.image_files import SUFFIXES
from pvtctl.data.layouts import EXPECTED, LABEL_FOLDERS
from pvtctl.errors import UsageError, nearest
from pvtctl.io.foreign import read_text, require_folder, walk_files
from pvtctl.io.names import plural

SEGMENTATION_SETS = ("ade20k", "pascal_context", "cityscapes", "masks")
SPLITS = ("train", "val")
_LONG = {"train": "training", "val": "validation"}
_MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
_CHECK_HINT = "a mask has its image's name and ends in .png; `pvtctl data check FOLDER --json` lists what does not pair"


@dataclass(frozen=True)
class MaskPairs:
    """The files of a split, sorted by name."""

    image_folder: Path
    mask_folder: Path
    images: list[str]
    """Paths relative to the image folder."""
    masks: list[str]
    """Paths relative to the mask folder, one for each image."""
    without_mask: list[str] = field(default_factory=list)
    """Images without a mask, not in `images`; also listed names without an image."""
    without_image: list[str] = field(default_factory=list)
    """Masks that are not used."""
    train_ids: bool = True
    """cityscapes: masks are `labelTrainIds`."""


def find_mask_pairs(name: str, root: Path | str | None, split: str) -> MaskPairs:
    """The pairs of a split of ade20k, pascal_context, cityscapes or masks; unpaired files are listed apart.

    Raises UsageError when there is no such folder, split or list, or no image.
    """
    layout = EXPECTED[name]
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}", nearest(split, SPLITS))
    if root is None:
        raise UsageError("no data folder", layout)
    require_folder(root, layout)
    root = Path(root)
    match name:
        case "pascal_context":
            pairs = _listed(root, split)
        case "cityscapes":
            pairs = _cities(root, split)
        case _:
            places = _ade20k_places(root, split) if name == "ade20k" else _mask_places(root, split)
            images, masks = _existing(places, layout)
            pairs = _paired(images, masks, _files(images, SUFFIXES), _files(masks, _MASK_SUFFIXES))
    if not pairs.images and not pairs.without_mask:
        raise UsageError(f"no images in {pairs.image_folder}", layout)
    return pairs


def require_pairs(pairs: MaskPairs) -> MaskPairs:
    """The same pairs. Raises UsageError, naming the first five, if images have no mask."""
    lost = pairs.without_mask
    if lost:
        which = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        of = f"{len(lost)} of {plural(len(lost) + len(pairs.images), 'image')}"
        is_yolo = not pairs.images and next(pairs.mask_folder.rglob("*.txt"), None) is not None
        hint = "text files are boxes: `pvtctl data convert FOLDER --from yolo --to NEW`" if is_yolo else _CHECK_HINT
        if not pairs.images and any(next(pairs.mask_folder.rglob(f"*{end}"), None) for end in (".jpg", ".jpeg")):
            hint = "JPEG changes the values of labels, so no mask is one: write the masks anew as PNG"
        if not pairs.images and (affix := common_affix(lost, pairs.without_image)):
            hint = f"the masks are called {affix}: rename them, or the images, so that both have one name"
        raise UsageError(f"{of} have no mask in {pairs.mask_folder}: {which}", hint)
    return pairs


def common_affix(images: list[str], masks: list[str]) -> str | None:
    """`NAME_mask` if all masks are called so, with something before or after the names of images."""
    names, masked = (sorted(path.rsplit(".", 1)[0] for path in each) for each in (images, masks))
    if len(names) != len(masked):
        return None
    found = set()
    for name, mask in zip(names, masked, strict=True):
        before, match, after = mask.partition(name)
        found.add(f"{before}NAME{after}" if match else None)
    return found.pop() if len(found) == 1 else None


def has_split(name: str, root: Path, split: str) -> bool:
    """Whether any file of a split exists."""
    if name == "pascal_context":
        return (root / "ImageSets" / "SegmentationContext" / f"{split}.txt").is_file()
    if name == "cityscapes":
        return (root / "leftImg8bit" / split).is_dir()
    places = _ade20k_places(root, split) if name == "ade20k" else _mask_places(root, split)
    return any(images.is_dir() for images, _ in places)


def _ade20k_places(root: Path, split: str) -> list[tuple[Path, Path]]:
    return [(root / "images" / _LONG[split], root / "annotations" / _LONG[split])]


def _mask_places(root: Path, split: str) -> list[tuple[Path, Path]]:
    places = [(root / "images" / split, root / masks / split) for masks in LABEL_FOLDERS]
    places += [(root / split / "images", root / split / masks) for masks in LABEL_FOLDERS]
    # SegNet's CamVid
    return [*places, (root / split, root / f"{split}annot")]


def _existing(places: list[tuple[Path, Path]], layout: str) -> tuple[Path, Path]:
    for images, masks in places:
        if images.is_dir() and masks.is_dir():
            return images, masks
    images, masks = next((pair for pair in places if pair[0].is_dir()), places[0])
    missing = masks if images.is_dir() else images
    raise UsageError(f"no folder {missing}", layout)


def _files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Name without suffix -> path relative to the folder, sorted; hidden files are left out."""
    found: dict[str, str] = {}
    for file in walk_files(folder, lambda path, reason: None, suffixes=suffixes):
        path = file.relative_to(folder).as_posix()
        found.setdefault(path.rsplit(".", 1)[0], path)
    return dict(sorted(found.items()))


def _paired(
    image_folder: Path,
    mask_folder: Path,
    images: Mapping[str, str],
    masks: Mapping[str, str],
    *,
    train_ids: bool = True,
) -> MaskPairs:
    both = [stem for stem in images if stem in masks]
    return MaskPairs(
        image_folder,
        mask_folder,
        [images[stem] for stem in both],
        [masks[stem] for stem in both],
        [path for stem, path in images.items() if stem not in masks],
        [path for stem, path in masks.items() if stem not in images],
        train_ids,
    )


def _listed(root: Path, split: str) -> MaskPairs:
    listing = root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
    image_folder, mask_folder = root / "JPEGImages", root / "SegmentationClassContext"
    for folder in (image_folder, mask_folder):
        require_folder(folder, EXPECTED["pascal_context"], "folder")
    if not listing.is_file():
        raise UsageError(f"no list {listing}", EXPECTED["pascal_context"])
    stems = read_text(listing).split()
    images, masks = _files(image_folder, SUFFIXES), _files(mask_folder, _MASK_SUFFIXES)
    absent = [stem for stem in stems if stem not in images]
    if absent:
        raise UsageError(
            f"{len(absent)} of the {plural(len(stems), 'image')} of {listing} are not in {image_folder}: "
            f"{', '.join(absent[:5])}",
            EXPECTED["pascal_context"],
        )
    wanted = {stem: images[stem] for stem in sorted(set(stems))}
    return _paired(image_folder, mask_folder, wanted, {stem: masks[stem] for stem in wanted if stem in masks})


def _cities(root: Path, split: str) -> MaskPairs:
    image_folder, mask_folder = root / "leftImg8bit" / split, root / "gtFine" / split
    for folder in (image_folder, mask_folder):
        require_folder(folder, EXPECTED["cityscapes"], "folder")
    images = _without(_files(image_folder, SUFFIXES), "_leftImg8bit")
    every = _files(mask_folder, (".png",))
    train_ids = any(stem.endswith("_labelTrainIds") for stem in every)
    masks = _without(every, "_gtFine_labelTrainIds" if train_ids else "_gtFine_labelIds")
    return _paired(image_folder, mask_folder, images, masks, train_ids=train_ids)


def _without(files: Mapping[str, str], ending: str) -> dict[str, str]:
    return {stem.removesuffix(ending): path for stem, path in files.items() if stem.endswith(ending)}

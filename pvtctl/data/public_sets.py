"""Public data sets: where they are, under which terms, and what their archives hold. Loads without torch."""

from __future__ import annotations

from dataclasses import dataclass

_COCO = "http://images.cocodataset.org"
_GB = 10**9


@dataclass(frozen=True)
class Archive:
    """One zip file of a set."""

    url: str
    size: int
    """Bytes; near enough where no hash is known."""
    unpacked: int
    """Approximate number of bytes."""
    places: tuple[str, ...]
    """Top-level entries that it adds to the set's folder."""
    splits: tuple[str, ...]
    """The splits that need it."""
    sha256: str | None = None
    below: str = ""
    """The folder inside the zip whose content is unpacked, with a trailing slash."""

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class PublicSet:
    """A set that anyone may download."""

    name: str
    title: str
    terms: str
    """Its licence in a few words, and where the full text is."""
    hashes: str
    """Source of the archives' hashes."""
    archives: tuple[Archive, ...]

    def archives_for(self, split: str | None) -> list[Archive]:
        """Archives that a split needs; without a split, all."""
        return [archive for archive in self.archives if split is None or split in archive.splits]


_PUBLIC = [
    PublicSet(
        "coco",
        "COCO 2017: 118,287 train and 5,000 val images, 80 classes, boxes and masks",
        "Annotations: CC BY 4.0, COCO Consortium. Images: their authors on Flickr hold the rights, each under the licence "
        "that its `license` entry names, and under the Flickr Terms of Use. https://cocodataset.org/#termsofuse",
        "COCO publishes none; compared with those that TensorFlow Datasets records",
        (
            Archive(
                f"{_COCO}/annotations/annotations_trainval2017.zip",
                252_907_541,
                int(0.85 * _GB),
                ("annotations",),
                ("train", "val"),
                "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            ),
            Archive(
                f"{_COCO}/zips/val2017.zip",
                815_585_330,
                int(0.83 * _GB),
                ("val2017",),
                ("val",),
                "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            ),
            Archive(
                f"{_COCO}/zips/train2017.zip",
                19_336_861_798,
                int(19.6 * _GB),
                ("train2017",),
                ("train",),
                "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            ),
        ),
    ),
    PublicSet(
        "ade20k",
        "ADE20K scene parsing: 20,210 training and 2,000 validation images, 150 classes",
        "Annotations: BSD-3-Clause, MIT CSAIL. Images: for non-commercial research and education only; their authors hold "
        "the rights. https://groups.csail.mit.edu/vision/datasets/ADE20K/terms/",
        "its owners publish none; that of the first fetch is recorded and held",
        (
            Archive(
                "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                int(0.97 * _GB),
                int(1.1 * _GB),
                ("images", "annotations", "objectInfo150.txt", "sceneCategories.txt"),
                ("train", "val"),
                below="ADEChallengeData2016/",
            ),
        ),
    ),
]


def public_sets() -> list[PublicSet]:
    """All public sets."""
    return list(_PUBLIC)


def find_public(name: str) -> PublicSet | None:
    """The set of this name."""
    return next((each for each in _PUBLIC if each.name == name), None)

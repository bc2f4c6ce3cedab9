from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch

from pvtctl.errors import UsageError
from pvtctl.tasks.classification.check import check_data
from pvtctl.tasks.classification.data import open_classification_split
from pvtctl.tasks.classification.shards import ShardFolder


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def shard_root(tmp_path, image_bytes) -> Path:
    for shard in range(2):
        members = {}
        for number in range(3):
            key = f"s{shard}/{number:04d}"
            members[f"{key}.jpg"] = image_bytes(10 * shard + number)
            members[f"{key}.cls"] = str(number).encode()
        write_shard(tmp_path / "train" / f"{shard:03d}.tar", members)
    return tmp_path


def test_any_sample_is_read_where_it_lies(shard_root, image_bytes):
    source = ShardFolder(shard_root, "train")
    assert list(source.ids) == [f"{shard:03d}.tar/s{shard}/{number:04d}" for shard in range(2) for number in range(3)]
    assert list(source.labels) == [0, 1, 2, 0, 1, 2]
    assert source.read(4) == image_bytes(11)
    assert source.class_names[:2] == ["n01440764", "n01443537"]  # without classes.txt: ImageNet-1k
    assert open_classification_split("imagenet", shard_root, "train", image_size=32)[5].target == 2


def test_class_names_from_a_file(shard_root):
    (shard_root / "classes.txt").write_text("cat a cat\ndog\nbird\n")
    assert ShardFolder(shard_root, "train").class_names == ["cat", "dog", "bird"]
    (shard_root / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(UsageError, match=r"labels of the tar shards go from 0 to 2, but .*classes\.txt has 2 classes"):
        ShardFolder(shard_root, "train")


def test_index_is_kept_and_renewed(shard_root, image_bytes):
    first = open_classification_split("imagenet", shard_root, "train").fingerprint()
    index = shard_root / "train" / ".000.tar.index.json"
    assert len(json.loads(index.read_text())["samples"]) == 3
    assert open_classification_split("imagenet", shard_root, "train").fingerprint() == first
    write_shard(shard_root / "train" / "000.tar", {"a.jpg": image_bytes(77), "a.json": b'{"label": 7}'})
    source = ShardFolder(shard_root, "train")
    assert (source.labels[0], source.read(0)) == (7, image_bytes(77))
    index.write_text("{")
    assert len(ShardFolder(shard_root, "train").ids) == 4


def test_reads_what_webdataset_writes(tmp_path, image_bytes):
    webdataset = pytest.importorskip("webdataset")
    (tmp_path / "val").mkdir()
    with webdataset.TarWriter(str(tmp_path / "val" / "0.tar")) as writer:
        for number in range(4):
            writer.write({"__key__": f"x{number}", "jpeg": image_bytes(number), "cls": number})
    source = ShardFolder(tmp_path, "val")
    assert [source.read(index) for index in range(4)] == [image_bytes(number) for number in range(4)]
    assert list(source.labels) == [0, 1, 2, 3]


def test_shards_and_folders_give_the_same_images(tmp_path, make_set):
    root = make_set()
    folder = open_classification_split("imagenet", root, "val", image_size=32)
    members = {}
    for number in range(len(folder)):
        members[f"{number}.jpg"] = folder.source.read(number)
        members[f"{number}.cls"] = str(folder.labels[number]).encode()
    write_shard(tmp_path / "shards" / "val" / "0.tar", members)
    shards = open_classification_split("imagenet", tmp_path / "shards", "val", image_size=32)
    for number in range(len(folder)):
        assert torch.equal(folder[number].image, shards[number].image)
        assert folder[number].target == shards[number].target


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.jpg": b"x"}, "1 sample.* lack an image or a label, the first is a"),
        ({"a.jpg": b"x", "a.cls": b"cat"}, "the label of a is not a number"),
        ({"a.jpg": b"x", "a.json": b'{"label": null}'}, "lack an image or a label"),
        ({}, "hold no samples"),
    ],
)
def test_broken_shards(tmp_path, members, message):
    write_shard(tmp_path / "val" / "0.tar", members)
    with pytest.raises(UsageError, match=message):
        ShardFolder(tmp_path, "val")


def test_truncated_tar(shard_root):
    shard = shard_root / "train" / "001.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(UsageError, match="is not a whole tar file"):
        ShardFolder(shard_root, "train")


def test_check_of_shards(shard_root, image_bytes):
    write_shard(shard_root / "val" / "0.tar", {"a.jpg": image_bytes(0), "a.cls": b"1", "b.jpg": b"x", "b.cls": b"0"})
    found = {(problem.kind, problem.split): problem.count for problem in check_data(shard_root).problems}
    assert found == {
        ("label_gap", "train"): 997,
        ("label_gap", "val"): 998,
        ("unreadable", "val"): 1,
        ("in_train_and_val", "val"): 1,
    }
    (shard_root / "val" / "0.tar").write_bytes(b"x" * 600)
    assert check_data(shard_root).verdict == "unusable"


@pytest.mark.parametrize(
    "label",
    [
        b"[1]",
        b"3",
        b'{"label": 1.5}',
        b'{"label": NaN}',
        b'{"label": 1e999}',
        b'{"label": {}}',
        b"\xff",
        b"[" * 9999,
        b"",
    ],
)
def test_facts_that_are_no_object(tmp_path, image_bytes, label):
    write_shard(tmp_path / "val" / "0.tar", {"a.jpg": image_bytes(0), "a.json": label})
    with pytest.raises(UsageError, match="the label of a is not a number"):
        ShardFolder(tmp_path, "val")


@pytest.mark.parametrize(
    "rows",
    [
        None,
        {},
        [1],
        [["a", 0, 512]],
        [["a", 0, -1, 9]],
        [["a", 0, 512, 10**9]],
        [["a", 0, 512, -1]],
        [["a", 0.5, 512, 9]],
    ],
)
def test_an_index_with_other_rows_is_written_anew(shard_root, rows):
    before = ShardFolder(shard_root, "train")
    index = shard_root / "train" / ".000.tar.index.json"
    whole = index.read_text()
    index.write_text(json.dumps(json.loads(whole) | {"samples": rows}))
    assert list(ShardFolder(shard_root, "train").ids) == list(before.ids)
    assert index.read_text() == whole


@pytest.mark.parametrize("text", [b"[1, 2]", b"", b"\xff{}", b"[" * 9999, b'{"stamp": NaN}', b'{"samples": []}'])
def test_an_index_of_something_else_is_written_anew(shard_root, text):
    before = ShardFolder(shard_root, "train")
    for index in (shard_root / "train").glob(".*.index.json"):
        index.write_bytes(text)
    after = ShardFolder(shard_root, "train")
    assert list(after.ids) == list(before.ids)
    assert '"stamp"' in index.read_text()


@pytest.mark.parametrize(("text", "message"), [(b"caf\xe9\n", "not UTF-8"), (b"a 1\na 2\nb\n", "names a twice")])
def test_class_lists_that_cannot_be_used(shard_root, text, message):
    (shard_root / "classes.txt").write_bytes(text)
    with pytest.raises(UsageError, match=message):
        ShardFolder(shard_root, "train")

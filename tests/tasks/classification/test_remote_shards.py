"""Tar shards on a web server on this machine: the same samples as local ones, whatever the server and the cache do."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from image_set_fixtures import encoded
from loopback import Loopback, serving
from object_store import ObjectStore, open_store
from safetensors.torch import load_file
from test_shards import write_shard

from pvtctl.cli.main import main
from pvtctl.data.loader import Loader
from pvtctl.data.samplers import Draw, ShardWindows, TrainSampler
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io import remote
from pvtctl.tasks.classification import remote_shards
from pvtctl.tasks.classification.check import check_data
from pvtctl.tasks.classification.data import ClassificationDataset, open_classification_split
from pvtctl.tasks.classification.remote_shards import RemoteShards
from pvtctl.tasks.classification.settings import Augment, Shards
from pvtctl.tasks.classification.shards import ShardFolder

SHARDS, EACH = 6, 4
PLAIN = Augment(rand_augment=False, repeats=1)
NAMED = Shards(train="train/{0..5}.tar", val="val/{0..1}.tar", mix=2)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    for split, count in (("train", SHARDS), ("val", 2)):
        for shard in range(count):
            members = {}
            for number in range(EACH):
                members[f"{number}.jpg"] = encoded(100 * shard + number + len(split))
                members[f"{number}.cls"] = str((shard + number) % 3).encode()
            write_shard(root / split / f"{shard}.tar", members)
    (root / "classes.txt").write_text("cat\ndog\nbird\n")
    return root


@pytest.fixture
def server(files, tmp_path, monkeypatch) -> Iterator[Loopback]:
    monkeypatch.setenv("PVTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("_PVTCTL_URLS", "{}")
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    with serving() as state:
        state.files = {f"/{file.relative_to(files)}": file.read_bytes() for file in files.rglob("*") if file.is_file()}
        state.files = {path: data for path, data in state.files.items() if not path.endswith(".json")}
        yield state


@pytest.fixture(params=["s3", "gs"])
def store(request, files, tmp_path, monkeypatch) -> ObjectStore:
    monkeypatch.setenv("PVTCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "CHUNK", 3000)  # of files of several thousand bytes
    state = open_store(request.param, monkeypatch)
    state.files = {f"bucket/set/{file.relative_to(files)}": file.read_bytes() for file in files.rglob("*.t?[rt]")}
    return state


def train_split(root: object, shards: Shards = NAMED, **options) -> ClassificationDataset:
    return open_classification_split(
        "imagenet", str(root), "train", image_size=32, augment=PLAIN, shards=shards, **options
    )


def batches(dataset: ClassificationDataset, *, epochs: int = 2, workers: int = 0, first: int = 0) -> list[torch.Tensor]:
    sampler = TrainSampler(len(dataset), batch_size=4, windows=dataset.windows)
    loader, found = Loader(dataset, sampler, workers=workers), []
    for epoch in range(epochs):
        sampler.set_epoch(epoch, first)
        found += [batch.images for batch in loader]
    loader.close()
    return found


def cached(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "shards" / "files").glob("*.tar"))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_url_holds_what_the_folder_holds(server, files, ranges) -> None:
    server.ranges = ranges
    here, there = ShardFolder(files, "train"), RemoteShards(server.url, "train", shards=NAMED)
    assert list(there.ids) == list(here.ids)
    assert np.array_equal(there.places, here.places)
    assert there.class_names == ["cat", "dog", "bird"]
    assert [there.read(index) for index in (0, 9, 23)] == [here.read(index) for index in (0, 9, 23)]
    remote_set, local = train_split(server.url), train_split(files)
    assert remote_set.fingerprint() == local.fingerprint()


@pytest.mark.parametrize("workers", [0, 2])
def test_training_sees_the_same_with_any_cache_and_any_workers(server, files, tmp_path, workers) -> None:
    expected = batches(train_split(files))
    size = max(file.stat().st_size for file in (files / "train").glob("*.tar"))
    small = NAMED.model_copy(update={"cache_gb": 4.5 * size / 1e9})
    found = batches(train_split(server.url, small), workers=workers)
    assert all(map(torch.equal, found, expected))
    assert len(found) == len(expected) == 12
    assert sum(file.stat().st_size for file in cached(tmp_path)) <= 4.5 * size
    gets = sum(server.gets(f"/train/{shard}.tar") for shard in range(SHARDS))
    assert gets <= SHARDS * 5  # an index, and each epoch at most once whole and again for a next window


def test_an_epoch_is_entered_anywhere(server, files) -> None:
    whole = batches(train_split(server.url), epochs=1)
    rest = batches(train_split(server.url), epochs=1, first=4)
    assert all(map(torch.equal, whole[4:], rest))


def test_the_next_shards_are_fetched_while_these_are_read(server, tmp_path) -> None:
    dataset = train_split(server.url)
    for file in cached(tmp_path):
        file.unlink()
    windows, (draws, *_) = dataset.windows, TrainSampler(24, batch_size=4, windows=dataset.windows)
    dataset.__getitems__(draws)
    needed = windows.needed(draws)
    assert len(needed) == 4
    dataset.source._own.thread.join(0.0)
    wanted = {remote_shards._cached_name(dataset.source.files[shard]) for shard in needed}
    for _ in range(200):
        if wanted <= {file.name for file in cached(tmp_path)}:
            break
        dataset.source._own.thread.join(0.02)
    assert wanted == {file.name for file in cached(tmp_path)}


def test_an_index_is_made_once_and_taken_from_the_server(server, files, tmp_path) -> None:
    before = RemoteShards(server.url, "train", shards=NAMED)
    asked = len(server.asked)
    RemoteShards(server.url, "train", shards=NAMED)
    assert all(method == "HEAD" or path == "/classes.txt" for method, path, _ in server.asked[asked:])
    ShardFolder(files, "train")  # writes the indices beside the shards
    for index in (files / "train").glob(".*.index.json"):
        server.files[f"/train/{index.name}"] = index.read_bytes()
    for place in (tmp_path / "cache").rglob("*.*"):
        place.unlink()
    gets = server.gets("/train/0.tar")
    again = RemoteShards(server.url, "train", shards=NAMED)
    assert np.array_equal(again.places, before.places)
    assert list(again.labels) == list(before.labels)
    assert server.gets("/train/0.tar") == gets


@pytest.mark.parametrize(
    "index", [b"{", b"[]", b'{"stamp": [1, 5, 0], "samples": []}', b'{"stamp": [1], "samples": 3}']
)
def test_an_index_on_the_server_that_does_not_fit_is_not_taken(server, index) -> None:
    for shard in range(SHARDS):
        server.files[f"/train/.{shard}.tar.index.json"] = index
    assert len(RemoteShards(server.url, "train", shards=NAMED)) == SHARDS * EACH


def test_a_shard_that_was_changed_is_told(server, tmp_path, capsys) -> None:
    RemoteShards(server.url, "train", shards=NAMED)
    server.files["/train/3.tar"] = server.files["/train/4.tar"]
    source = RemoteShards(server.url, "train", shards=NAMED)
    assert re.search(r"/train/3\.tar was changed on the server since it was indexed", capsys.readouterr().err)
    assert source.read(3 * EACH) == source.read(4 * EACH)
    server.tags["/train/4.tar"] = '"new"'
    for file in cached(tmp_path):
        file.unlink()
    dataset = ClassificationDataset(source, open_classification_split("scenes", "", "val", samples=1).transform)
    with pytest.raises(PvtctlError, match=r"/train/4\.tar was changed on the server while it was in use"):
        dataset.__getitems__([Draw(0, 4 * EACH)])


def test_a_server_that_goes_away_is_one_line_and_the_run_goes_on(server, tmp_path) -> None:
    expected = batches(train_split(server.url))
    for file in cached(tmp_path):
        file.unlink()
    dataset = train_split(server.url)
    sampler = TrainSampler(len(dataset), batch_size=4, windows=dataset.windows)
    for workers in (0, 1):
        server.faults = [503] * 999
        with pytest.raises(PvtctlError, match=r"/train/\d\.tar could not be read: the server returned 503") as caught:
            list(Loader(dataset, sampler, workers=workers))
        assert "--resume" in str(caught.value.hint)
    server.faults = []
    assert all(map(torch.equal, batches(train_split(server.url)), expected))


def test_a_cache_that_is_too_small_says_what_it_needs(server) -> None:
    with pytest.raises(UsageError, match=r"do not hold 4 shards") as caught:
        RemoteShards(server.url, "train", shards=NAMED.model_copy(update={"cache_gb": 1e-6}))
    assert "data.shards.cache_gb=" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("shards", "match"),
    [
        (Shards(), "no shards match|does not exist"),
        (Shards(train="train/{0..9}.tar"), r"/train/\d\.tar does not exist"),
        (Shards(train="{train,val}/0.tar"), "two shards called 0.tar"),
        (Shards(train="classes.{txt,txt}"), "not a whole tar|lack"),
    ],
)
def test_patterns_that_name_nothing_of_use(server, shards, match) -> None:
    with pytest.raises(UsageError, match=match):
        RemoteShards(server.url, "train", shards=shards)


def test_a_folder_that_the_server_lists(server, files) -> None:
    server.files["/train/"] = "".join(f'<a href="{n}.tar">{n}.tar</a>' for n in range(SHARDS)).encode()
    assert list(RemoteShards(server.url, "train").ids) == list(ShardFolder(files, "train").ids)


def test_the_check_fetches_a_few_shards(server) -> None:
    found = check_data(server.url, shards=NAMED)
    assert found.verdict == "warnings"  # the same bytes in train and val
    assert found.images == {"train": 4 * EACH, "val": 2 * EACH}
    assert sum(server.gets(f"/train/{shard}.tar") > 0 for shard in range(SHARDS)) == 4
    assert {problem.kind for problem in found.problems} == {"few_shards", "in_train_and_val"}
    assert check_data(server.url, shards=NAMED, full=True).images["train"] == SHARDS * EACH
    server.files.pop("/val/1.tar")
    assert check_data(server.url, shards=NAMED).verdict == "unusable"


def test_a_pattern_names_local_shards_too(files) -> None:
    some = ShardFolder(files, "train", shards=Shards(train="train/{0,2}.tar"))
    assert {name.partition("/")[0] for name in some.ids} == {"0.tar", "2.tar"}


@pytest.mark.parametrize("mix", [1, 2, 4, 7])
def test_windows_cut_an_epoch_into_shards_read_together(mix) -> None:
    shard_of = np.repeat(np.arange(0, 14, 2), 5)  # a limit on samples leaves shards out
    windows = ShardWindows(shard_of, mix, seed=3, shuffled=True)
    plain = TrainSampler(35, batch_size=5)
    orders = []
    for epoch in (0, 1):
        sampler = TrainSampler(35, batch_size=5, windows=windows)
        for each in (plain, sampler):
            each.set_epoch(epoch)
        drawn = list(sampler)
        orders.append([draw.index for batch in drawn for draw in batch])
        assert sorted(orders[-1]) == list(range(35))
        used = shard_of[orders[-1]].reshape(-1, 5)
        for at, batch in enumerate(drawn):
            assert set(used[at]) <= set(windows.needed(batch))
            assert len(windows.needed(batch)) <= 3 * mix
        if mix >= 7:
            assert orders[-1] == [draw.index for batch in plain for draw in batch]
    assert orders[0] != orders[1]


def test_a_run_from_a_url_is_resumed_to_the_bit_and_writes_no_secret(server, tmp_path, capsys, monkeypatch) -> None:
    url = server.url.replace("://", "://me:pass-word@") + "?signature=hidden"
    words = ["pretrain", "imagenet", "--backbone", "pvt_v2_b0", "--profile", "smoke", "--data", url]
    for setting in ("shards.train=train/{0..5}.tar", "shards.val=val/{0..1}.tar", "shards.mix=2", "workers=0"):
        words += ["--set", f"data.{setting}"]
    words += ["--set", "train.epochs=2", "--set", "train.total_batch=8", "--set", "model.backbone.width=0.25"]
    runs = [tmp_path / "runs" / name for name in ("whole", "killed")]
    assert main([*words, "--out", str(runs[0])]) == 0
    for file in cached(tmp_path):
        file.unlink()

    def not_val(file, part, fetch=remote.fetch):  # needed after the first epoch, which is saved by then
        if "/val/" in file.url:
            raise remote.ServerAway(file.url, "gone")
        fetch(file, part)

    with monkeypatch.context() as broken:
        broken.setattr(remote_shards, "fetch", not_val)
        broken.setattr(sys, "argv", ["pvtctl", *words])
        broken.setenv("PVTCTL_MIRROR", url)
        assert main([*words, "--out", str(runs[1])]) == 1
    assert "could not be read: gone" in capsys.readouterr().err
    assert main([*words, "--out", str(runs[1]), "--resume"]) == 0
    best = [load_file(run / "best.safetensors") for run in runs]
    assert best[0].keys() == best[1].keys()
    assert all(torch.equal(best[0][key], best[1][key]) for key in best[0])
    said = capsys.readouterr()
    written = [said.out.encode(), said.err.encode()]
    written += [file.read_bytes() for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    written += [file.read_bytes() for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert not any(secret in each for each in written for secret in (b"pass-word", b"hidden"))
    began = json.loads((runs[1] / "environment.json").read_text())[0]
    assert server.url.replace("://", "://***@") + "?***" in began["argv"]


def test_without_the_secrets_a_run_says_how_to_go_on(server, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("_PVTCTL_URLS", "{}")
    assert main(["data", "check", "https://host/set?***"]) == 2
    assert "was written without its user, password or query" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_an_object_store_holds_what_the_folder_holds(store, files, tmp_path, workers) -> None:
    """Listed by the default patterns, read ahead into a bounded cache, in parts, with any workers, as from a folder."""
    url = f"{store.scheme}://bucket/set"
    here, there = ShardFolder(files, "train"), RemoteShards(url, "train")
    assert list(there.ids) == list(here.ids)
    assert [file.url for file in there.files] == [f"{url}/train/{shard}.tar" for shard in range(SHARDS)]
    assert [file.size for file in there.files] == [
        (files / "train" / f"{shard}.tar").stat().st_size for shard in range(SHARDS)
    ]
    assert there.class_names == ["cat", "dog", "bird"]
    assert there.read(9) == here.read(9)
    assert ("config_kwargs" in store.options) == (store.scheme == "s3")
    size = max(file.size for file in there.files)
    for file in cached(tmp_path):
        file.unlink()
    small = Shards(mix=2, cache_gb=4.5 * size / 1e9)
    found = batches(train_split(url, small), workers=workers)
    assert all(map(torch.equal, found, batches(train_split(files))))
    assert sum(file.stat().st_size for file in cached(tmp_path)) <= 4.5 * size
    assert store.reads("bucket/set/train/0.tar") >= 3  # in parts


def test_an_object_that_changed_has_another_place_in_the_cache(store, tmp_path, capsys) -> None:
    url = f"{store.scheme}://bucket/set"
    RemoteShards(url, "train")
    before = {file.name for file in cached(tmp_path)}
    assert len(before) == SHARDS
    store.tags["bucket/set/train/3.tar"] = '"new"'
    source = RemoteShards(url, "train")
    assert "train/3.tar was changed on the server since it was indexed" in capsys.readouterr().err
    assert len({file.name for file in cached(tmp_path)} - before) == 1
    store.tags["bucket/set/train/4.tar"] = '"newer"'
    for file in cached(tmp_path):
        file.unlink()
    source.prepare([4])
    with pytest.raises(
        PvtctlError, match=r"train/4\.tar was changed on the server while it was in use.*ETag \"newer\""
    ):
        source.read(4 * EACH)


class NoCredentialsError(Exception):
    """As botocore names it."""


@pytest.mark.parametrize(
    ("fault", "match", "code"),
    [
        (PermissionError("Access Denied"), "is refused: Access Denied", 2),
        (NoCredentialsError("Unable to locate credentials"), "is refused: Unable to locate credentials", 2),
        (TimeoutError(), r"could not be read: no answer within 30 s", 1),
        (
            ConnectionError("https://b.host/set/0.tar?X-Amz-Signature=hidden: reset"),
            r"could not be read: https://b.host/set/0.tar\?\*\*\*",
            1,
        ),
        (FileNotFoundError("bucket/set/train/0.tar"), "0.tar does not exist", 2),
    ],
)
def test_what_a_store_says_is_one_line_without_secrets(store, tmp_path, fault, match, code) -> None:
    source = RemoteShards(f"{store.scheme}://bucket/set", "train")
    store.faults = [fault] * 99
    with pytest.raises(PvtctlError, match=match) as caught:
        remote_shards.fetch(source.files[0], tmp_path / "part")
    assert caught.value.exit_code == code
    assert "hidden" not in f"{caught.value} {caught.value.hint}"


def test_a_store_that_stutters_is_read_to_the_end(store, files) -> None:
    store.faults = [ConnectionError("reset"), TimeoutError()] * 2
    there = RemoteShards(f"{store.scheme}://bucket/set", "train", only=1)
    assert there.read(0) == ShardFolder(files, "train").read(0)
    assert not store.faults


def test_a_bucket_without_such_shards(store) -> None:
    for place in ("bucket/other", "nowhere"):
        with pytest.raises(UsageError, match=f"no shards match {store.scheme}://{place}/train/"):
            RemoteShards(f"{store.scheme}://{place}", "train")

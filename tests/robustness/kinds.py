"""What is damaged, how, and by which command it is read: one entry a kind of input."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from damage_files import damage_checkpoint, damage_folder, damage_image, damage_npy
from mutate import Damage, damage_bytes, damage_json, damage_text
from valid import RUN, pick_file


@dataclass(frozen=True)
class Attempt:
    """A command on a damaged input."""

    words: list[str]
    allowed: Sequence[int] = (0, 2)
    json_document: bool = False


Kind = Callable[[random.Random, Path, Path], Attempt]
"""(random numbers, folder of valid inputs, empty folder to work in) -> what to run there."""

CHECK = (0, 1, 2)
"""`data check` answers 1 for what is usable with losses."""


def _text_file(file: Path, damage: Damage, rng: random.Random) -> None:
    file.write_bytes(damage(file.read_text("utf-8"), rng))


def _asked(words: list[str], rng: random.Random, allowed: Sequence[int] = (0, 2)) -> Attempt:
    """Half of the time as a JSON document."""
    as_json = rng.random() < 0.5
    return Attempt([*words, *(["--json"] if as_json else [])], allowed, as_json)


def recipe(rng: random.Random, valid: Path, work: Path) -> Attempt:
    shutil.copy(valid / "recipe.yaml", work / "mine.yaml")
    _text_file(work / "mine.yaml", damage_text, rng)
    return _asked(["recipes", rng.choice(["check", "show"]), "mine.yaml"], rng)


def coco_annotations(rng: random.Random, valid: Path, work: Path) -> Attempt:
    shutil.copytree(valid / "coco", work / "coco", copy_function=os.link)
    split = rng.choice(["train", "val"])
    file = work / "coco" / "annotations" / f"instances_{split}2017.json"
    damaged = damage_json(file.read_text(), rng)
    file.unlink()
    file.write_bytes(damaged)
    if rng.random() < 0.7:
        return _asked(["data", "check", "coco", "--workers", "0"], rng, CHECK)
    return _asked(["eval", "coco", "--annotations", str(file), "--results", str(valid / "coco/results.json")], rng)


def coco_results(rng: random.Random, valid: Path, work: Path) -> Attempt:
    (work / "results.json").write_bytes(damage_json((valid / "coco/results.json").read_text(), rng))
    annotations = valid / "coco/annotations/instances_val2017.json"
    return _asked(["eval", "coco", "--annotations", str(annotations), "--results", "results.json"], rng)


def yolo(rng: random.Random, valid: Path, work: Path) -> Attempt:
    shutil.copytree(valid / "yolo", work / "yolo")
    _text_file(pick_file(work / "yolo", ("*.txt", "data.yaml", "data.yaml"), rng), damage_text, rng)
    return _asked(["data", "convert", "yolo", "--from", "yolo", "--to", "new"], rng)


def voc(rng: random.Random, valid: Path, work: Path) -> Attempt:
    shutil.copytree(valid / "voc", work / "voc")
    _text_file(pick_file(work / "voc", ("*.xml", "*.xml", "*.txt"), rng), damage_text, rng)
    return _asked(["data", "convert", "voc", "--from", "voc", "--to", "new"], rng)


def class_list(rng: random.Random, valid: Path, work: Path) -> Attempt:
    name, words = rng.choice(
        [
            ("maps", ["data", "check", "maps", "--workers", "0"]),
            ("yolo", ["data", "convert", "yolo", "--from", "yolo", "--to", "new"]),
        ]
    )
    shutil.copytree(valid / name, work / name)
    _text_file(work / name / "classes.txt", damage_text, rng)
    if name == "yolo":
        words += ["--classes", "yolo/classes.txt"]
    return _asked(words, rng, CHECK if name == "maps" else (0, 2))


def image_in_classes(rng: random.Random, valid: Path, work: Path) -> Attempt:
    shutil.copytree(valid / "classes", work / "classes", copy_function=os.link)
    file = pick_file(work / "classes", ("*.png", "*.jpg"), rng)
    source = pick_file(valid / "images", ("*",), rng)
    file.unlink()
    file.with_suffix(source.suffix).write_bytes(damage_image(source.read_bytes(), rng))
    return _asked(["data", "check", "classes", "--workers", "0"], rng, CHECK)


def image_to_predict(rng: random.Random, valid: Path, work: Path) -> Attempt:
    source = pick_file(valid / "images", ("*",), rng)
    (work / f"photo{source.suffix}").write_bytes(damage_image(source.read_bytes(), rng))
    return _asked(["predict", f"photo{source.suffix}", "--weights", str(valid / "weights.safetensors")], rng)


def label_map(rng: random.Random, valid: Path, work: Path) -> Attempt:
    shutil.copytree(valid / "maps", work / "maps")
    file = pick_file(work / "maps/masks", ("*.png",), rng)
    file.write_bytes(damage_image(file.read_bytes(), rng))
    return _asked(["data", "check", "maps", "--workers", "0"], rng, CHECK)


def depth_file(rng: random.Random, valid: Path, work: Path) -> Attempt:
    shutil.copytree(valid / "depth", work / "depth")
    file = pick_file(work / "depth", ("*.png", "*.npy", "*.npy", "depth.json"), rng)
    if file.suffix == ".json":
        _text_file(file, damage_json, rng)
    else:
        damage = damage_image if file.suffix == ".png" else damage_npy
        file.write_bytes(damage(file.read_bytes(), rng))
    return _asked(["data", "check", "depth", "--workers", "0"], rng, CHECK)


def checkpoint(rng: random.Random, valid: Path, work: Path) -> Attempt:
    name = rng.choice(["weights.safetensors", "weights.pth", "legacy.pth"])
    damage_checkpoint(valid / name, work / name, rng)
    if rng.random() < 0.7:
        return _asked(["weights", "inspect", name], rng)
    return _asked(["predict", str(valid / "images/photo.png"), "--weights", name, "--backbone", "pvt_v2_b0@0.25"], rng)


def folder(rng: random.Random, valid: Path, work: Path) -> Attempt:
    name, words = rng.choice(
        [
            ("classes", ["data", "check", "classes", "--workers", "0"]),
            ("maps", ["data", "check", "maps", "--workers", "0"]),
            ("depth", ["data", "check", "depth", "--workers", "0"]),
            ("coco", ["data", "check", "coco", "--workers", "0"]),
            ("yolo", ["data", "convert", "yolo", "--from", "yolo", "--to", "new"]),
            ("voc", ["data", "convert", "voc", "--from", "voc", "--to", "new"]),
            ("images", ["predict", "images", "--weights", str(valid / "weights.safetensors")]),
        ]
    )
    shutil.copytree(valid / name, work / name, copy_function=os.link)
    damage_folder(work / name, rng)
    return _asked(words, rng, CHECK if words[1] == "check" else (0, 2))


def run_files(rng: random.Random, valid: Path, work: Path) -> Attempt:
    """Files of a run: read by the commands about runs, and by `--resume`."""
    resumes = rng.random() < 0.12
    shutil.copytree(valid / ("stopped" if resumes else "run"), work / "run", copy_function=os.link)
    name = rng.choice(["run.json", "recipe.yaml", "environment.json", "metrics.jsonl", ".lock"])
    if rng.random() < 0.2:
        name = "best.safetensors"
    if resumes and rng.random() < 0.4:
        name = sorted(file.name for file in (work / "run/checkpoints").glob("step-*.pt"))[-1]
        name = f"checkpoints/{name}"
    file = work / "run" / name
    old = file.read_bytes()
    file.unlink()
    pick = rng.random()
    if pick < 0.1:
        pass  # it is missing
    elif pick < 0.15:
        file.mkdir()
    elif file.suffix in (".json", ".yaml", ".jsonl"):
        damage = damage_json if file.suffix == ".json" else damage_text
        file.write_bytes(damage(old.decode(), rng))
    else:
        file.write_bytes(damage_bytes(old, rng))
    if resumes:
        return _asked(["pretrain", "scenes", *RUN, "--out", "run", "--resume"], rng)
    words = rng.choice(
        [
            ["compare", "run", str(valid / "run"), "--no-latency"],
            ["visualize", "curves", "run", "--out", "new.png"],
            ["eval", "run"],
            ["weights", "inspect", "run"],
            ["predict", str(valid / "images/photo.png"), "--weights", "run"],
        ]
    )
    return _asked(words, rng)


KINDS: dict[str, tuple[int, Kind]] = {
    "recipe": (24, recipe),
    "COCO annotations": (14, coco_annotations),
    "COCO results": (10, coco_results),
    "YOLO": (8, yolo),
    "VOC": (6, voc),
    "class list": (5, class_list),
    "image, checked": (8, image_in_classes),
    "image, predicted": (6, image_to_predict),
    "label map": (6, label_map),
    "depth": (8, depth_file),
    "checkpoint": (14, checkpoint),
    "folder": (8, folder),
    "run folder": (12, run_files),
}
"""Name -> how often it is tried, and how it is made."""


def attempt(seed: int, valid: Path, work: Path, only: str | None = None) -> tuple[str, Attempt]:
    """The kind and the command of a seed; its damaged input lies in `work` then."""
    rng = random.Random(seed)
    kind = rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    return kind, KINDS[only or kind][1](rng, valid, work)


def as_typed(attempt_: Attempt) -> str:
    """The command in one line."""
    return "pvtctl " + " ".join(json.dumps(word) if " " in word else word for word in attempt_.words)

"""The task as the engine uses it."""

from __future__ import annotations

import pytest
import torch

from pvtctl.engine import choose_precision, evaluate, single
from pvtctl.engine.protocol import Task
from pvtctl.errors import UsageError
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.classification.task import ClassificationTask
from pvtctl.tasks.from_recipe import build_task, fit_settings
from pvtctl.weights.describe import HeadClasses


def recipe(*overrides: str) -> Recipe:
    sets = ["data.train_samples=24", "data.val_samples=10", "model.backbone.width=0.25", *overrides]
    return load_recipe("imagenet_pvt_v2", "pvt_v2_b0", "smoke", sets)


def build(*overrides: str, head: HeadClasses | None = None) -> ClassificationTask:
    return build_task(recipe(*overrides), device="cpu", head=head, say=lambda text: None)


def test_it_is_a_task_with_its_story() -> None:
    task: Task = build()
    assert task.batches_per_epoch(1) == 3
    meta = task.meta().as_json()
    assert meta["backbone"] == "pvt_v2_b0@0.25"
    assert meta["num_classes"] == len(meta["class_names"]) == 12
    assert (meta["image_size"], meta["profile"], meta["row"]) == (32, "smoke", "pvt_v2_b0")


def test_the_same_seed_gives_the_same_model_and_leaves_the_global_one() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, two = build(), build()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    other = build("train.seed=1")
    assert not torch.equal(one.model.head.weight, other.model.head.weight)


def test_batches_and_mixing_do_not_depend_on_where_an_epoch_is_entered() -> None:
    whole = list(build().train_loader(epoch=1, first_batch=0, rank=0, world_size=1))
    task = build()
    (last,) = task.train_loader(epoch=1, first_batch=2, rank=0, world_size=1)
    assert torch.equal(last.images, whole[2].images)
    assert last.ids == whole[2].ids
    model = task.model.eval()
    losses = [task.losses(model, batch)["loss"] for batch in (last, whole[2])]
    assert torch.equal(*losses)
    assert torch.equal(task.losses(model, last)["loss"], losses[0]), "keyed by the batch, not by a counter"


def test_training_lowers_the_loss_on_one_batch() -> None:
    task = build("data.augment.mixup_alpha=0", "data.augment.cutmix_alpha=0", "model.backbone.drop_path_rate=0")
    batch = next(iter(task.train_loader(epoch=0, first_batch=0, rank=0, world_size=1)))
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = task.losses(task.model, batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_two_ranks_together_score_what_one_does() -> None:
    task = build()
    model = task.model.eval()
    whole = evaluate(task, model, single("cpu"), choose_precision("fp32", torch.device("cpu")))
    states = []
    for rank in range(2):
        metric, share = task.metric(), build()
        with torch.inference_mode():
            for batch in share.val_loader(rank=rank, world_size=2):
                metric.update(task.predict(model, batch), batch)
        states.append(metric.state())
    merged = task.metric()
    merged.merge(states)
    assert merged.compute()["images"] == 10
    assert merged.compute() == pytest.approx(whole.compute(), abs=1e-5)


def test_a_larger_head_is_evaluated_by_name() -> None:
    names = ["zebra", *reversed(build().class_names)]
    task = build(head=HeadClasses(13, names))
    assert task.train is None
    assert [names[at] for at in task.label_to_head] == task.val.class_names
    assert (
        "top1_present"
        in evaluate(task, task.model, single("cpu"), choose_precision("fp32", torch.device("cpu"))).compute()
    )


def test_settings_follow_the_recipe() -> None:
    settings = fit_settings(recipe(), 1)
    assert (settings.train.epochs, settings.batch_size, settings.train.total_batch) == (2, 8, 8)
    assert fit_settings(recipe("train.accumulate=2"), 2).batch_size == 2
    with pytest.raises(UsageError, match="does not split evenly"):
        fit_settings(recipe(), 3)


def test_a_batch_larger_than_the_data_is_a_clear_error() -> None:
    with pytest.raises(UsageError, match="do not fill one batch"):
        build("train.total_batch=64").batches_per_epoch(1)

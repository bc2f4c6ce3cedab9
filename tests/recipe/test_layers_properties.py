"""Properties of layered settings: dotted and nested keys are the same, and later layers win as a plain merge says."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pvtctl.recipe.layers import Layer, flatten, merge, nest

EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=30)

keys = st.sampled_from(["a", "b", "c", "train", "model"])  # neither `name` nor `expect`, which have rules of their own
leaves = st.one_of(st.none(), st.booleans(), st.integers(0, 9), st.text("xyz", max_size=3), st.lists(st.integers(0, 9)))
Nested = dict[str, Any]


def nested(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Nested]:
    blocks = st.recursive(leaf, lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=8)
    return st.dictionaries(keys, blocks, max_size=3)


def layer(data: Nested, label: str = "a") -> Layer:
    found, faults = flatten(data, label, {})
    assert faults == []
    return found


def merged(*layers: Nested) -> Nested:
    return nest(merge([layer(each, str(at)) for at, each in enumerate(layers)])[0])


def pruned(data: Nested) -> Nested:
    """Without blocks that hold no value: they say nothing."""
    parts = {key: pruned(value) if isinstance(value, dict) else value for key, value in data.items()}
    return {key: value for key, value in parts.items() if value != {}}


def plain_merge(below: Nested, above: Nested) -> Nested:
    """Mappings merge, everything else replaces."""
    result = deepcopy(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = plain_merge(old if isinstance(old, dict) else {}, value) if isinstance(value, dict) else value
    return result


@EXAMPLES
@given(nested(leaves))
def test_nesting_undoes_flattening(data: Nested) -> None:
    assert nest(layer(data).values) == data


@EXAMPLES
@given(nested(leaves), st.data())
def test_dotted_and_nested_keys_are_the_same(data: Nested, draw: st.DataObject) -> None:
    def dotted(block: Nested) -> Nested:
        result: Nested = {}
        for key, value in block.items():
            inner = dotted(value) if isinstance(value, dict) else value
            if isinstance(inner, dict) and inner and draw.draw(st.booleans()):
                result |= {f"{key}.{rest}": each for rest, each in inner.items()}
            else:
                result[key] = inner
        return result

    assert layer(dotted(data)).values == layer(data).values


@EXAMPLES
@given(nested(leaves), nested(leaves), nested(leaves))
def test_later_layers_win_as_in_a_plain_merge(first: Nested, second: Nested, third: Nested) -> None:
    expected = plain_merge(plain_merge(pruned(first), pruned(second)), pruned(third))
    assert merged(first, second, third) == expected


@EXAMPLES
@given(nested(leaves), nested(leaves), nested(leaves))
def test_layers_can_be_merged_in_steps(first: Nested, second: Nested, third: Nested) -> None:
    assert merged(merged(first, second), third) == merged(first, second, third)
    assert merged(first, first) == merged(first) == merged({}, first, {})


@EXAMPLES
@given(nested(leaves), nested(leaves))
def test_every_value_knows_the_last_layer_that_set_it(first: Nested, second: Nested) -> None:
    values, origins = merge([layer(first, "first"), layer(second, "second")])
    assert values.keys() == origins.keys()
    above = layer(pruned(second)).values
    assert {path: origin.label for path, origin in origins.items()} == {
        path: "second" if path in above else "first" for path in values
    }


blocks = st.dictionaries(st.sampled_from(["lr", "momentum", "betas"]), leaves, max_size=3)
names = st.sampled_from(["adamw", "sgd"])


@EXAMPLES
@given(names, blocks, names, blocks, st.sampled_from(["optimizer", "data"]))
def test_a_block_whose_name_changes_is_replaced(below: str, old: Nested, above: str, new: Nested, block: str) -> None:
    """`data` is the exception: with another data set, image size and augmentation stay."""
    result = merged({block: {"name": below, **old}}, {block: {"name": above, **new}})
    expected = {**old, **new} if below == above or block == "data" else new
    assert result == {block: {"name": above, **expected}}

"""Why a state dict holds no model that pvtctl builds, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from pvtctl.weights.recognise import convert_state, identify

_MOST_PARTS = 3
"""Words of a prefix, as in `model.student.backbone.`."""
_MOST_PREFIXES = 12


def explain_unknown(raw: Mapping[str, Tensor], format: str) -> tuple[str, str]:
    """What a file holds whose parameters (under the file's own names) are no known model's, and a hint."""
    if found := _under_prefixes(raw):
        prefix, model = next(iter(found.items()))
        places = " and ".join(f"`{each}`" for each in found)
        return (
            f"holds {model} under the prefix{'es' * (len(found) > 1)} {places}, which pvtctl does not take off",
            f"save only one, without it: {{k.removeprefix({prefix!r}): v for k, v in state.items() if "
            f"k.startswith({prefix!r})}}",
        )
    if any(name.endswith((".ls1.gamma", ".ls1.lambda1")) for name in raw):
        patch = next((tuple(value.shape[2:]) for name, value in raw.items() if name.endswith("embed.proj.weight")), ())
        of = f" of {patch[0]} pixels" if patch else ""
        return (
            f"holds a ViT with layer scale and patches{of} (DINOv2 and its relatives), which pvtctl does not build",
            "its ViTs are those of DeiT and DPT, with patches of 16 or 32 pixels; `pvtctl models ls` lists all models",
        )
    return (
        f"holds no model that pvtctl knows ({format} layout)",
        "`pvtctl weights inspect` shows what is in it, `pvtctl models ls` what is known",
    )


def _under_prefixes(raw: Mapping[str, Tensor]) -> dict[str, str]:
    """Prefixes under which a known model lies -> its name; of the most frequent ones, none within another."""
    counts: Counter[str] = Counter()
    for name in raw:
        words = name.split(".")
        counts.update(".".join(words[:length]) + "." for length in range(1, min(len(words), _MOST_PARTS + 1)))
    found: dict[str, str] = {}
    for prefix, _ in counts.most_common(_MOST_PREFIXES):
        inner = {name.removeprefix(prefix): value for name, value in raw.items() if name.startswith(prefix)}
        if not prefix.startswith(tuple(found)) and (models := identify(convert_state(inner).state)):
            found[prefix] = " or ".join(models)
    return found

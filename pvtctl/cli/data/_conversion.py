"""Messages of `pvtctl data convert`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvtctl.io.console import say

if TYPE_CHECKING:
    from pvtctl.data.convert.to_coco import DatasetConversion


def say_conversion(done: DatasetConversion) -> None:
    """Print what was written and what was left out, on stderr."""
    origin = {
        "lists": "splits by the source's lists",
        "folders": "splits by the source's folders",
        "share": "the source has no splits, or --val-share was given: val is drawn",
    }
    for split, images in done.images.items():
        say(f"{split}: {images} images, {done.objects[split]} objects")
    say(f"classes: {len(done.classes)} ({', '.join(done.classes[:10])}{', ...' if len(done.classes) > 10 else ''})")
    say(origin[done.split_by])
    for note in done.notes:
        say(f"note: {note.count} {note.meaning} ({', '.join(note.examples)}{', ...' if note.count > 5 else ''})")

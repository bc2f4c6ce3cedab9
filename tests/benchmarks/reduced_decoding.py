"""What decoding JPEGs at reduced size changes: `python tests/benchmarks/reduced_decoding.py DIR`, photos anywhere below DIR.

For random crops as classification draws them, at 224: the difference in levels of 255 between the crop read as training reads it and
from the whole image; and the same for the whole image at a half, a quarter and an eighth of the file's sides, with and without
antialiasing. Seconds are of the processor.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch


def main() -> None:
    from pvtctl.data.images import EncodedPicture, decode, open_image, pixels_of
    from pvtctl.data.randomness import generator_for
    from pvtctl.data.transforms import resample
    from pvtctl.tasks.classification.transforms import random_crop_box

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=224)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    spent: dict[bool, float] = defaultdict(float)
    crops = reduced = 0
    for number, file in enumerate(sorted(options.folder.rglob("*.[jJ][pP]*[gG]"))):
        data = file.read_bytes()
        picture = EncodedPicture(data)
        for copy in range(4):
            box = random_crop_box(
                picture.height, picture.width, (0.08, 1.0), (0.75, 4 / 3), generator_for(number, copy)
            )
            crops += 1
            if min(box[2], box[3]) // options.side < 4:
                continue
            reduced += 1
            both = []
            for exact in (True, False):
                start = time.process_time()
                both.append(EncodedPicture(data).resized(box, (options.side,) * 2, exact=exact).short())
                spent[exact] += time.process_time() - start
            found["as training reads it"].append((both[0] - both[1]).abs().numpy().ravel())
        for factor in (2, 4, 8):
            size = (picture.height // factor, picture.width // factor)
            small = pixels_of(decode(open_image(data), factor))
            for antialias in (True, False):
                how = f"whole image at 1/{factor}, {'' if antialias else 'not '}antialiased"
                whole = resample(pixels_of(decode(open_image(data))), size, "bilinear", antialias=antialias)
                found[how].append(
                    (whole.short() - resample(small, size, "bilinear", antialias=antialias)).abs().numpy().ravel()
                )
    print(
        f"{crops} crops, {reduced} of them read at reduced size, in {spent[False]:.2f} s instead of {spent[True]:.2f}"
    )
    print("| | mean | 99 % | 99.9 % | largest |\n| --- | ---: | ---: | ---: | ---: |")
    for how, parts in found.items():
        levels = np.concatenate(parts)
        at = " | ".join(f"{value:.0f}" for value in (*np.quantile(levels, (0.99, 0.999)), levels.max()))
        print(f"| {how} | {levels.mean():.2f} | {at} |")


if __name__ == "__main__":
    main()

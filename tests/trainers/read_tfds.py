"""Every record of a data set through TensorFlow Datasets, without a line of code of the data set's own.

python read_tfds.py TRUTH OUTPUT
"""

import sys

import numpy as np
import tensorflow_datasets as tfds
from compare import Truth


def main(truth_path, output):
    """Reads and compares every record of every split."""
    truth = Truth(truth_path)
    builder = tfds.builder_from_directory(output)
    datasets = builder.as_dataset()
    for split, dataset in datasets.items():
        count = 0
        for example in tfds.as_numpy(dataset):
            image = example["image"]
            found, pixels = image["object"], image["encoded"]
            masks = found["mask"]  # [N, H, W, 1], or all numbers in one row
            seen = {
                "image": pixels,
                "masks": masks.reshape(len(found["area"]), *pixels.shape[:2]),
                "boxes": np.stack([found["bbox"][side] for side in ("ymin", "xmin", "ymax", "xmax")], axis=-1),
                "classes": found["class"]["label"],
                "crowds": found["is_crowd"].astype(bool),
                "areas": found["area"],
            }
            truth.check(image["source_id"].decode(), seen)
            count += 1
        assert builder.info.splits[split].num_examples == count
    truth.report()


main(*sys.argv[1:])

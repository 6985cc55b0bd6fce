"""What a trainer's decoder gives, held against the annotations. Runs inside the trainers' environments, on Python 3.7 too.

The truth is an .npz that `test_trainers.py` has drawn with pycocotools from the annotation file, and from nothing of ours.
"""

import json

import numpy as np


class Truth:
    """Of each image, by its source id: masks [N, H, W], boxes [N, 4] in [0, 1], classes, crowd flags and areas [N]."""

    def __init__(self, path):
        self.arrays = np.load(path)
        self.left = {name.split("/")[0] for name in self.arrays.files}
        self.counts = {"records": 0, "instances": 0, "mask pixels": 0}

    def check(self, source_id, seen):
        """Raises `AssertionError` unless everything in `seen` equals the truth, bit for bit."""
        self.left.remove(source_id)
        expected = {name: self.arrays[f"{source_id}/{name}"] for name in ("boxes", "classes", "crowds", "areas", "size")}
        height, width = expected["size"]
        count = len(expected["classes"])
        packed = self.arrays[f"{source_id}/masks"]
        expected["masks"] = np.unpackbits(packed)[: count * height * width].reshape(count, height, width)
        seen = dict(seen, size=np.array(seen["image"].shape[:2]))
        for name, wanted in sorted(expected.items()):
            found = np.asarray(seen[name])
            assert found.shape == wanted.shape, (source_id, name, found.shape, wanted.shape)
            if not np.array_equal(found.astype(wanted.dtype), wanted) or not np.array_equal(found, wanted):
                raise AssertionError(f"image {source_id}: {name}: expected {wanted!r}, found {found!r}")
        self.counts["records"] += 1
        self.counts["instances"] += count
        self.counts["mask pixels"] += int(expected["masks"].sum())

    def report(self):
        """Prints the counts as JSON, the last line of a proof."""
        assert not self.left, f"not in the records: {sorted(self.left)}"
        print(json.dumps(self.counts))

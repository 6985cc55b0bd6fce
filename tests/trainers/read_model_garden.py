"""RECORDS… of a data set through the Model Garden's own decoder.

python read_model_garden.py TRUTH SHARD…
"""

import sys

import tensorflow as tf
from compare import Truth
from official.vision.dataloaders.tf_example_decoder import TfExampleDecoder


def main(truth_path, *shards):
    """Decodes and compares every record."""
    truth = Truth(truth_path)
    decoder = TfExampleDecoder(include_mask=True)
    for record in tf.data.TFRecordDataset(list(shards)):
        tensors = {name: tensor.numpy() for name, tensor in decoder.decode(record).items()}
        seen = {
            "image": tensors["image"],
            "masks": tensors["groundtruth_instance_masks"],
            "boxes": tensors["groundtruth_boxes"],
            "classes": tensors["groundtruth_classes"],
            "crowds": tensors["groundtruth_is_crowd"],
            "areas": tensors["groundtruth_area"],
        }
        truth.check(tensors["source_id"].decode(), seen)
    truth.report()


main(*sys.argv[1:])

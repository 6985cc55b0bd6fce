"""RECORDS… of a data set through the Object Detection API's own decoder, under TensorFlow 1.15 or 2.

python read_object_detection.py TRUTH LABEL_MAP PNG_MASKS|NUMERICAL_MASKS SHARD…
"""

import sys

import tensorflow.compat.v1 as tf

tf.enable_eager_execution()

from compare import Truth  # noqa: E402
from object_detection.core.standard_fields import InputDataFields as Fields  # noqa: E402
from object_detection.data_decoders.tf_example_decoder import TfExampleDecoder  # noqa: E402
from object_detection.protos import input_reader_pb2  # noqa: E402


def main(truth_path, label_map, mask_type, *shards):
    """Decodes and compares every record."""
    truth = Truth(truth_path)
    decoder = TfExampleDecoder(
        load_instance_masks=True,
        instance_mask_type=input_reader_pb2.InstanceMaskType.Value(mask_type),
        label_map_proto_file=label_map,
    )
    for record in tf.data.TFRecordDataset(list(shards)):
        tensors = {name: tensor.numpy() for name, tensor in decoder.decode(record).items()}
        seen = {
            "image": tensors[Fields.image],
            "masks": tensors[Fields.groundtruth_instance_masks],
            "boxes": tensors[Fields.groundtruth_boxes],
            "classes": tensors[Fields.groundtruth_classes],
            "crowds": tensors[Fields.groundtruth_is_crowd],
            "areas": tensors[Fields.groundtruth_area],
        }
        truth.check(tensors[Fields.source_id].decode(), seen)
    truth.report()


main(*sys.argv[1:])

"""The bases of `maskbeam trainer-config`, by name. Nothing heavy is imported here, for the sake of its help."""

from __future__ import annotations

from typing import NamedTuple


class Base(NamedTuple):
    """What tells the configurations apart; the rest is the same in all."""

    extractor: str
    stride: int  # of the first stage's features, and of the anchors
    atrous_rate: int | None
    crop: int
    pool: int
    mask_size: int
    mask_layers: int
    detections: int
    learning_rate: float = 0.0003
    batch: int = 1  # that the learning rate was published for
    tf2: bool = False


BASES = {
    "mask_rcnn_inception_resnet_v2_atrous_coco": Base("faster_rcnn_inception_resnet_v2", 8, 2, 17, 1, 33, 4, 100),
    "mask_rcnn_resnet101_atrous_coco": Base("faster_rcnn_resnet101", 8, 2, 14, 2, 33, 4, 300),
    "mask_rcnn_resnet50_atrous_coco": Base("faster_rcnn_resnet50", 8, 2, 14, 2, 33, 4, 300),
    "mask_rcnn_inception_v2_coco": Base("faster_rcnn_inception_v2", 16, None, 14, 2, 15, 2, 300, 0.0002),
    "mask_rcnn_inception_resnet_v2_1024x1024_coco17": Base(
        "faster_rcnn_inception_resnet_v2_keras", 16, None, 17, 1, 33, 4, 100, 0.008, batch=16, tf2=True
    ),
}
MODEL_GARDEN = "model_garden_mask_rcnn"

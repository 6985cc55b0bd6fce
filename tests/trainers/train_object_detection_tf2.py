"""Two steps of the Object Detection API's `train_loop`, TensorFlow 2, on a pipeline.config as it was written.

    python train_object_detection_tf2.py CONFIG MODEL_DIR

Only the image resizer is made smaller, to 256 pixels, for the sake of time.
"""

import os
import sys

from events import report
from object_detection import model_lib_v2
from object_detection.utils import config_util


def main(config, model_dir):
    """Parses, makes small, trains; prints the losses of each step as JSON."""
    configs = config_util.get_configs_from_pipeline_file(config)
    resizer = configs["model"].faster_rcnn.image_resizer.fixed_shape_resizer
    assert resizer.height > 256, "no fixed_shape_resizer in the configuration"
    resizer.height = resizer.width = 256
    config_util.save_pipeline_config(config_util.create_pipeline_proto_from_configs(configs), model_dir)
    model_lib_v2.train_loop(
        os.path.join(model_dir, "pipeline.config"), model_dir, train_steps=2, num_steps_per_iteration=1, checkpoint_every_n=1000
    )
    report(model_dir)


main(*sys.argv[1:])

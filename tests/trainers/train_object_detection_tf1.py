"""Two steps of the Object Detection API's Estimator trainer, TensorFlow 1.15, on a pipeline.config as it was written.

    python train_object_detection_tf1.py CONFIG MODEL_DIR

Only the image resizer is made smaller, to 256 pixels, for the sake of time.
"""

import json
import os
import sys

import tensorflow as tf
from object_detection import model_hparams, model_lib
from object_detection.utils import config_util


class Losses(tf.estimator.SessionRunHook):
    """The losses of each step: the trainer computes them, but writes only their sum."""

    parts = (
        "RPNLoss/localization_loss",
        "RPNLoss/objectness_loss",
        "BoxClassifierLoss/localization_loss",
        "BoxClassifierLoss/classification_loss",
        "BoxClassifierLoss/mask_loss",
    )

    def __init__(self):
        self.values = {}

    def before_run(self, run_context):
        """Asks for them by their names in the graph."""
        return tf.estimator.SessionRunArgs({f"Loss/{name}": f"Loss/{name}:0" for name in self.parts})

    def after_run(self, run_context, run_values):
        """Keeps them."""
        for name, value in run_values.results.items():
            self.values.setdefault(name, []).append(float(value))


def main(config, model_dir):
    """Parses, makes small, trains; prints the losses of each step as JSON."""
    configs = config_util.get_configs_from_pipeline_file(config)
    resizer = configs["model"].faster_rcnn.image_resizer.keep_aspect_ratio_resizer
    assert resizer.min_dimension > 256, "no keep_aspect_ratio_resizer in the configuration"
    resizer.min_dimension = resizer.max_dimension = 256
    config_util.save_pipeline_config(config_util.create_pipeline_proto_from_configs(configs), model_dir)
    made = model_lib.create_estimator_and_inputs(
        tf.estimator.RunConfig(model_dir=model_dir, save_summary_steps=1),
        model_hparams.create_hparams(None),
        os.path.join(model_dir, "pipeline.config"),
        train_steps=2,
        sample_1_of_n_eval_examples=1,
    )
    losses = Losses()
    made["estimator"].train(made["train_input_fn"], max_steps=2, hooks=[losses])
    step = int(made["estimator"].get_variable_value("global_step"))
    print(json.dumps({"steps": step, "losses": losses.values}))


main(*sys.argv[1:])

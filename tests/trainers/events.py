"""What a TensorFlow 2 trainer has written into its event files."""

import glob
import json
import os

import tensorflow as tf


def report(model_dir):
    """Prints the last step that was taken, and the losses of all, as JSON."""
    losses, steps = {}, 0
    for path in glob.glob(os.path.join(model_dir, "train", "events*")):
        for event in tf.compat.v1.train.summary_iterator(path):
            for value in event.summary.value:
                if "loss" in value.tag.lower():
                    steps = max(steps, event.step)
                    losses.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
    print(json.dumps({"steps": steps, "losses": losses}))

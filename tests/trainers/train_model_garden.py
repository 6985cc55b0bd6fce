"""Two steps of the Model Garden's own training loop on a YAML as it was written.

    python train_model_garden.py YAML MODEL_DIR

Only the image size is made smaller, to 256 pixels, and the number of steps, for the sake of time; and weights are random, since
the published backbone would have to be fetched.
"""

import sys

from events import report
from official.common import distribute_utils
from official.core import exp_factory, task_factory, train_lib
from official.modeling import hyperparams
from official.vision import registry_imports  # noqa: F401 - registers the tasks


def main(config, model_dir):
    """Loads strictly, makes small, trains; prints the losses of each step as JSON."""
    params = exp_factory.get_exp_config("maskrcnn_resnetfpn_coco")
    params = hyperparams.override_params_dict(params, config, is_strict=True)
    small = {
        "task": {"model": {"input_size": [256, 256, 3]}, "init_checkpoint": None},
        "trainer": {"train_steps": 2, "steps_per_loop": 1, "summary_interval": 1, "checkpoint_interval": 2},
    }
    params = hyperparams.override_params_dict(params, small, is_strict=True)
    params.validate()
    params.lock()
    strategy = distribute_utils.get_distribution_strategy(distribution_strategy=params.runtime.distribution_strategy, num_gpus=0)
    with strategy.scope():
        task = task_factory.get_task(params.task, logging_dir=model_dir)
    train_lib.run_experiment(strategy, task, "train", params, model_dir)
    report(model_dir)


main(*sys.argv[1:])

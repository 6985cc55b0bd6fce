"""Trainer configurations: what they say of the data, and that a user's own is changed nowhere else."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Data, Output

from beam_pipeline.cli import main
from beam_pipeline.options import RunOptions
from beam_pipeline.run import run
from beam_pipeline.text_proto import Document, TextProtoError
from beam_pipeline.trainer_bases import BASES, MODEL_GARDEN
from beam_pipeline.trainer_config import (
    Choices,
    Facts,
    SplitFacts,
    bring_over,
    difference,
    model_garden_yaml,
    pipeline_config,
    read_facts,
    shuffle_buffer,
)
from transforms.records import InputError

FACTS = Facts(
    "png",
    90,
    "data/label_map.pbtxt",
    SplitFacts("data/train-?????-of-00008.tfrecord", 1000, 143, 100_000.0),
    SplitFacts("data/val-?????-of-00002.tfrecord", 50, 61, 100_000.0),
)

FASTER_RCNN = """\
# Faster R-CNN of ours; do not touch the anchors!
model {
  faster_rcnn {
    num_classes: 37  # breeds
    image_resizer { keep_aspect_ratio_resizer { min_dimension: 600 max_dimension: 1024 } }
    feature_extractor {
      type: 'faster_rcnn_resnet50'
      first_stage_features_stride: 16
    }
    first_stage_anchor_generator {
      grid_anchor_generator {
        scales: [0.25, 0.5, 1.0, 2.0]
        aspect_ratios: [0.5, 1.0, 2.0]
      }
    }
    second_stage_box_predictor {
      mask_rcnn_box_predictor {
        use_dropout: false
        fc_hyperparams {
          op: FC
        }
      }
    }
  }
}

train_config: {
  batch_size: 1
}

train_input_reader: {
  tf_record_input_reader {
    input_path: "pets_train.record"
    input_path: "pets_more.record"
  }
  label_map_path: "pets.pbtxt"
}

eval_config: {
  metrics_set: "coco_detection_metrics"
  num_examples: 2000
}

eval_input_reader: {
  tf_record_input_reader { input_path: "pets_val.record" }
  label_map_path: "pets.pbtxt"
  shuffle: false  # keep
}
"""


def values(text: str, *path: str) -> list[str]:
    document = Document(text)
    block = document.root.block(*path[:-1])
    assert block is not None, path
    return [document.value(entry) for entry in block.named(path[-1])]


def test_facts_come_from_the_data_set(demo_output: Output) -> None:
    facts = read_facts(str(demo_output.folder))
    labels = [line.split(",") for line in (demo_output.folder / "label_map.csv").read_text().splitlines()]
    assert facts.highest_id == max(int(label) for label, _ in labels) == 9
    assert facts.encoding == "png"
    for split, name in ((facts.train, "train"), (facts.evaluation, "val")):
        shards = [shard for shard in demo_output.manifest["shards"] if shard["split"] == name]
        assert split.images == sum(shard["records"] for shard in shards)
        assert split.glob == str(demo_output.folder / f"{name}-?????-of-00002.tfrecord")
        assert len(list(demo_output.folder.glob(Path(split.glob).name))) == 2
    assert read_facts(str(demo_output.folder), "val", "train").train.glob.endswith("val-?????-of-00002.tfrecord")
    with pytest.raises(InputError, match="no split 'test', only train, val"):
        read_facts(str(demo_output.folder), "test")


PUBLISHED = {  # stride, atrous rate, crop size, pool size, mask size, mask layers, detections, learning rate
    "mask_rcnn_inception_v2_coco": (16, None, 14, 2, 15, 2, 300, 2e-4),
    "mask_rcnn_resnet50_atrous_coco": (8, 2, 14, 2, 33, 4, 300, 3e-4),
    "mask_rcnn_resnet101_atrous_coco": (8, 2, 14, 2, 33, 4, 300, 3e-4),
    "mask_rcnn_inception_resnet_v2_atrous_coco": (8, 2, 17, 1, 33, 4, 100, 3e-4),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_base_has_the_published_values(name: str) -> None:
    text = pipeline_config(FACTS, name)
    stride, rate, crop, pool, size, layers, detections, learning = PUBLISHED[name]
    model, predictor = ("model", "faster_rcnn"), ("second_stage_box_predictor", "mask_rcnn_box_predictor")
    expected = {
        (*model, "feature_extractor", "first_stage_features_stride"): [str(stride)],
        (*model, "first_stage_anchor_generator", "grid_anchor_generator", "height_stride"): [str(stride)],
        (*model, "first_stage_atrous_rate"): [str(rate)] if rate else [],
        (*model, "initial_crop_size"): [str(crop)],
        (*model, "maxpool_kernel_size"): [str(pool)],
        (*model, *predictor, "mask_height"): [str(size)],
        (*model, *predictor, "mask_prediction_num_conv_layers"): [str(layers)],
        (*model, *predictor, "mask_prediction_conv_depth"): ["0"],
        (*model, *predictor, "predict_instance_masks"): ["true"],
        (*model, "number_of_stages"): ["3"],
        (*model, "second_stage_mask_prediction_loss_weight"): ["4.0"],
        (*model, "second_stage_post_processing", "batch_non_max_suppression", "max_total_detections"): [str(detections)],
        ("train_config", "batch_size"): ["1"],
        ("train_config", "num_steps"): ["200000"],
        ("train_config", "gradient_clipping_by_norm"): ["10.0"],
    }
    for path, wanted in expected.items():
        assert values(text, *path) == wanted, path
    rates = ("train_config", "optimizer", "momentum_optimizer", "learning_rate", "manual_step_learning_rate")
    assert float(values(text, *rates, "initial_learning_rate")[0]) == learning


@pytest.mark.parametrize("name", BASES)
def test_a_base_says_what_the_data_set_is(name: str) -> None:
    text = pipeline_config(FACTS, name, Choices("model.ckpt", 256, 3, 500))
    assert values(text, "model", "faster_rcnn", "num_classes") == ["90"]
    for reader, split in (("train_input_reader", FACTS.train), ("eval_input_reader", FACTS.evaluation)):
        assert values(text, reader, "load_instance_masks") == ["true"]
        assert values(text, reader, "mask_type") == ["PNG_MASKS"]
        assert values(text, reader, "max_number_of_boxes") == [str(split.most_instances)]
        assert values(text, reader, "label_map_path") == ['"data/label_map.pbtxt"']
        assert values(text, reader, "tf_record_input_reader", "input_path") == [json.dumps(split.glob)]
    assert values(text, "eval_config", "num_examples") == ["50"]
    assert '"coco_mask_metrics"' in values(text, "eval_config", "metrics_set")
    assert values(text, "train_config", "fine_tune_checkpoint") == ['"model.ckpt"']
    assert values(text, "train_config", "num_steps") == ["500"]
    predictor = ("model", "faster_rcnn", "second_stage_box_predictor", "mask_rcnn_box_predictor")
    assert values(text, *predictor, "mask_prediction_conv_depth") == ["256"]
    assert values(text, *predictor, "mask_prediction_num_conv_layers") == ["3"]


def test_dense_masks_are_numerical() -> None:
    text = pipeline_config(FACTS._replace(encoding="dense"), "mask_rcnn_inception_v2_coco")
    assert values(text, "train_input_reader", "mask_type") == ["NUMERICAL_MASKS"]


def test_a_shuffle_buffer_fits_its_budget() -> None:
    split = SplitFacts("x", 10_000, 5, 2_000_000.0)
    assert shuffle_buffer(split, 1000) == 500
    assert shuffle_buffer(split._replace(images=20), 1000) == 20
    assert shuffle_buffer(split, 0.1) == 1
    assert shuffle_buffer(split._replace(record_bytes=10.0), 1000) == 2048


def test_a_faster_rcnn_is_brought_over_and_else_stays_as_it_was() -> None:
    text = bring_over(FASTER_RCNN, FACTS)
    model = ("model", "faster_rcnn")
    predictor = (*model, "second_stage_box_predictor", "mask_rcnn_box_predictor")
    assert values(text, *model, "num_classes") == ["90"]
    assert values(text, *model, "number_of_stages") == ["3"]
    assert values(text, *predictor, "predict_instance_masks") == ["true"]
    assert values(text, *predictor, "mask_prediction_conv_depth") == ["0"]
    assert values(text, *predictor, "mask_prediction_num_conv_layers") == ["2"]
    assert values(text, *predictor, "conv_hyperparams", "op") == ["CONV"]
    assert values(text, *predictor, "fc_hyperparams", "op") == ["FC"]
    for reader, split in (("train_input_reader", FACTS.train), ("eval_input_reader", FACTS.evaluation)):
        assert values(text, reader, "load_instance_masks") == ["true"]
        assert values(text, reader, "mask_type") == ["PNG_MASKS"]
        assert values(text, reader, "tf_record_input_reader", "input_path") == [json.dumps(split.glob)]
        assert values(text, reader, "max_number_of_boxes") == [str(split.most_instances)]
    assert values(text, "eval_config", "metrics_set") == ["'coco_mask_metrics'"]
    assert values(text, "eval_config", "num_examples") == ["50"]
    changed = ("num_classes", "input_path", "label_map_path", "metrics_set", "num_examples", "tf_record_input_reader { ")
    for line in FASTER_RCNN.splitlines():
        assert line in text.splitlines() or any(word in line for word in changed), line
    for comment in ("# Faster R-CNN of ours; do not touch the anchors!", "# breeds", "# keep"):
        assert comment in text
    assert bring_over(text, FACTS) == text


def test_the_users_own_mask_layers_stand_unless_asked_for() -> None:
    own = FASTER_RCNN.replace("use_dropout: false", "use_dropout: false\n        mask_prediction_num_conv_layers: 7")
    predictor = ("model", "faster_rcnn", "second_stage_box_predictor", "mask_rcnn_box_predictor")
    assert values(bring_over(own, FACTS), *predictor, "mask_prediction_num_conv_layers") == ["7"]
    asked = bring_over(own, FACTS, Choices(mask_prediction_num_conv_layers=5))
    assert values(asked, *predictor, "mask_prediction_num_conv_layers") == ["5"]


def test_what_is_missing_is_added() -> None:
    text = bring_over("model { faster_rcnn { num_classes: 3 } }\n", FACTS)
    assert values(text, "model", "faster_rcnn", "second_stage_box_predictor", "mask_rcnn_box_predictor", "conv_hyperparams", "op")
    assert values(text, "train_input_reader", "mask_type") == ["PNG_MASKS"]
    assert values(text, "eval_config", "metrics_set") == ['"coco_mask_metrics"']


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model { ssd { num_classes: 90 } }", "found ssd"),
        ("train_config { batch_size: 1 }", "found no model at all"),
        ("", "found no model at all"),
        ("model { faster_rcnn { num_classes: 90 }", "line 1: found the end of the file"),
        ("model {\n faster_rcnn {\n  num_classes 90\n } }", "line 3"),
        ("model { faster_rcnn { num_classes: } }", "expected a value"),
        ("{}", "expected the name of a field"),
        ('model { faster_rcnn { a: "x } }', "can't be parsed"),
    ],
)
def test_what_is_no_faster_rcnn_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        bring_over(text, FACTS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: 1\n# end",
        'a { b: [1, 2], c: "x" "y" ; d < e: -1.5e3 > }  # why\n\n\n',
        "a: [{ b: 1 }, { b: 2 }]\n",
        "a: 'it''s'\r\nb: true\r\n",
        "[some.extension] { a: inf }\n",
    ],
)
def test_what_is_not_changed_stays_byte_for_byte(text: str) -> None:
    try:
        document = Document(text)
    except TextProtoError:
        assert text.startswith("[")  # extensions are none of a pipeline.config's
        return
    assert document.result() == text


def test_a_yaml_for_the_model_garden() -> None:
    config = yaml.safe_load(model_garden_yaml(FACTS, Choices(batch_size=8)))
    assert config["task"]["model"]["num_classes"] == 91
    assert config["task"]["model"]["include_mask"] is True
    assert config["task"]["train_data"]["global_batch_size"] == 8
    assert config["task"]["train_data"]["parser"]["max_num_instances"] == 143
    assert config["trainer"]["train_steps"] == round(22.5 * (1000 // 8))
    assert config["trainer"]["validation_steps"] * config["task"]["validation_data"]["global_batch_size"] == 50
    with pytest.raises(InputError, match="dense"):
        model_garden_yaml(FACTS._replace(encoding="dense"))


def test_the_command_prints_writes_and_shows_what_it_changes(
    demo_output: Output, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(demo_output.folder)
    assert main(["trainer-config", output, "--base", "mask_rcnn_inception_v2_coco"]) == 0
    assert values(capsys.readouterr().out, "model", "faster_rcnn", "num_classes") == ["9"]
    own, new = tmp_path / "faster.config", tmp_path / "mask.config"
    own.write_text(FASTER_RCNN)
    assert main(["trainer-config", output, "--update", str(own), "--config", str(new)]) == 0
    assert "-    num_classes: 37  # breeds\n+    num_classes: 9  # breeds\n" in capsys.readouterr().out
    assert own.read_text() == FASTER_RCNN
    assert values(new.read_text(), "model", "faster_rcnn", "number_of_stages") == ["3"]
    own.write_text("model { ssd {} }")
    assert main(["trainer-config", output, "--update", str(own)]) == 2
    assert "expected the configuration of a Faster R-CNN" in capsys.readouterr().err


def test_what_is_left_to_the_user_is_named(demo_output: Output, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "faster.config"
    own.write_text(FASTER_RCNN + 'train_config { fine_tune_checkpoint: "PATH_TO_BE_CONFIGURED/model.ckpt" }\n')
    assert main(["trainer-config", str(demo_output.folder), "--update", str(own)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^still to be configured by you, in line \d+: train_config \{ fine_tune_checkpoint", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("base", "name"), [("mask_rcnn_resnet50_atrous_coco", "pipeline.config"), (MODEL_GARDEN, "model_garden.yaml")]
)
def test_run_writes_a_configuration_along(
    run_demo: Callable[..., Output], capsys: pytest.CaptureFixture[str], base: str, name: str
) -> None:
    output = run_demo(splits="train=0.7,val=0.3", trainer_config=base).folder
    assert main(["trainer-config", str(output), "--base", base]) == 0
    assert (output / name).read_text() == capsys.readouterr().out
    run_demo(output=str(output), overwrite=True)
    assert not (output / name).exists()


def test_a_configuration_that_cannot_be_is_refused_before_anything_is_written(tmp_path: Path, demo_data: Data) -> None:
    options = RunOptions(
        annotations=str(demo_data.annotations),
        images=str(demo_data.images),
        output=str(tmp_path / "out"),
        mask_encoding="dense",
        trainer_config=MODEL_GARDEN,
    )
    with pytest.raises(InputError, match="can't read dense masks"):
        run(options, [])
    assert not (tmp_path / "out").exists()
    file = tmp_path / "empty.json"
    file.write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(Exception, match="no categories, so there is nothing to train"):
        run(dataclasses.replace(options, annotations=str(file), mask_encoding="png"), [])
    assert not list((tmp_path / "out").glob("*.*"))


@pytest.mark.parametrize(
    "arguments", [["--batch_size", "0"], ["--num_steps", "-1"], ["--num_steps", "many"], ["--shuffle_mb", "0"]]
)
def test_numbers_that_make_no_sense_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["trainer-config", "records", "--base", MODEL_GARDEN, *arguments])
    assert stopped.value.code == 2
    assert re.search(rf"{arguments[0]}: expected a (whole )?number above 0, found '{arguments[1]}'", capsys.readouterr().err)


def test_a_difference_names_the_file() -> None:
    assert difference("a: 1\n", "a: 2\n", "x.config").startswith("--- x.config")


def test_the_command_line_knows_every_base(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["trainer-config", "--help"])
    said = "".join(capsys.readouterr().out.split())
    assert all(name in said for name in (*BASES, MODEL_GARDEN))

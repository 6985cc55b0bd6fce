"""Trainer configurations: what they say of the data, and that a user's own is changed nowhere else."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Data, Output, digests

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
    facts_of,
    label_ids,
    make_config,
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
    initial_crop_size: 14
    maxpool_kernel_size: 2
    maxpool_stride: 2
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
    block = document.root.message(*path[:-1])
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
    assert values(text, "eval_config", "metrics_set") == ['"coco_mask_metrics"']
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
    text = bring_over("model { faster_rcnn { initial_crop_size: 14 maxpool_kernel_size: 2 maxpool_stride: 2 } }\n", FACTS)
    assert values(text, "model", "faster_rcnn", "second_stage_box_predictor", "mask_rcnn_box_predictor", "conv_hyperparams", "op")
    assert values(text, "train_input_reader", "mask_type") == ["PNG_MASKS"]
    assert values(text, "eval_config", "metrics_set") == ['"coco_mask_metrics"']


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model { ssd { num_classes: 90 } }", "found ssd"),
        ("train_config { batch_size: 1 }", "found no model at all"),
        ("", "found no model at all"),
        ("model { faster_rcnn { num_classes: 90 } ssd {} }", "found faster_rcnn, ssd"),
        ("model { faster_rcnn: 3 }", "expected faster_rcnn to be a message"),
        ("model { faster_rcnn { num_classes: 90 }", "line 1: found the end of the file"),
        ("model {\n faster_rcnn {\n  num_classes 90\n } }", "line 3"),
        ("model { faster_rcnn { num_classes: } }", "expected a value"),
        ("{}", "expected the name of a field"),
        ('model { faster_rcnn { a: "x } }', "can't be brought over: line 1"),
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


NO_EVALUATION = FASTER_RCNN[: FASTER_RCNN.index("eval_config")] + FASTER_RCNN[FASTER_RCNN.index("eval_input_reader") :]
INPUT_PATHS = """    input_path: "pets_train.record"
    input_path: "pets_more.record"
"""
EXOTIC = {  # what is made of FASTER_RCNN; what stands in the result
    "two evaluation readers": (FASTER_RCNN + 'eval_input_reader { label_map_path: "x" }\n', "  shuffle: false  # keep\n"),
    "a comma between": (
        FASTER_RCNN.replace(INPUT_PATHS, '    input_path: "a", input_path: "b"\n'),
        "  tf_record_input_reader {\n    input_path",
    ),
    "a semicolon": (FASTER_RCNN.replace(INPUT_PATHS, '    input_path: "a"; input_path: "b";\n'), '.tfrecord";\n'),
    "commas in a line": (
        FASTER_RCNN.replace("  num_examples: 2000", '  metrics_set: "b", num_examples: 2000'),
        '\n  metrics_set: "coco_mask_metrics", num_examples: 50\n',
    ),
    "a comment at the end": (NO_EVALUATION + "# the end", "\n# the end\neval_config {\n"),
    "no line feed at the end": (NO_EVALUATION.rstrip(), "\n}\neval_config {\n"),
    "a form feed": (FASTER_RCNN.replace("# breeds", "# bre\x0ceds num: {"), "# bre\x0ceds num: {\n"),
    "a line separator": (FASTER_RCNN.replace("# breeds", "# bre\u2028eds num: {"), "# bre\u2028eds num: {\n"),
    "a vertical tab": (FASTER_RCNN.replace("batch_size: 1", 'batch_size: 1 fine_tune_checkpoint: "a\x0bb"'), '"a\x0bb"'),
    "a reader of another kind": (
        FASTER_RCNN.replace('tf_record_input_reader { input_path: "pets_val.record" }', "external_input_reader { }"),
        "  shuffle: false  # keep\n",
    ),
    "brackets that share a line": (
        FASTER_RCNN.replace("\n  }\n}\n\ntrain_config", " } }\ntrain_config"),
        "    } number_of_stages: 3 } }\n",
    ),
    "messages in a list elsewhere": (
        FASTER_RCNN.replace("batch_size: 1", "data_augmentation_options [{ a {} }, { b {} }]"),
        "[{ a {} }, {",
    ),
}


@pytest.mark.parametrize("name", EXOTIC)
def test_unusual_layouts_are_changed_in_place(name: str) -> None:
    own, expected = EXOTIC[name]
    text = bring_over(own, FACTS)
    assert own != text
    assert expected in text
    assert text.count("\neval_input_reader") == 1
    for reader, split in (("train_input_reader", FACTS.train), ("eval_input_reader", FACTS.evaluation)):
        assert values(text, reader, "tf_record_input_reader", "input_path") == [json.dumps(split.glob)]
        assert not values(text, reader, "external_input_reader")
    assert values(text, "eval_config", "num_examples") == ["50"]
    assert values(text, "model", "faster_rcnn", "number_of_stages") == ["3"]
    assert bring_over(text, FACTS) == text


def test_what_is_added_to_one_line_keeps_its_spaces() -> None:
    own = " ".join(line.split("#")[0].strip() for line in FASTER_RCNN.split("\n"))
    own = own.replace('tf_record_input_reader { input_path: "pets_val.record" }', "")
    text = bring_over(own, FACTS._replace(evaluation=FACTS.evaluation._replace(glob="my  data/val")))
    assert values(text, "eval_input_reader", "tf_record_input_reader", "input_path") == ['"my  data/val"']


def test_lines_end_as_the_files_own_do() -> None:
    text = bring_over(NO_EVALUATION.replace("\n", "\r\n"), FACTS)
    assert text.replace("\r\n", "\n") == bring_over(NO_EVALUATION, FACTS)
    assert text.count("\n") == text.count("\r\n")


UNSAFE = {  # what is replaced in FASTER_RCNN, by what; what is said of it
    "an unterminated string": ("'faster_rcnn_resnet50'", "'faster_rcnn_resnet50", "line 7: .*expected the string to end"),
    "no value": ("initial_crop_size: 14", "initial_crop_size: $", r"line 16: found '\$', expected a value"),
    "neither true nor false": ("use_dropout: false", "use_dropout: maybe", "found 'maybe', expected a value"),
    "a list without commas": ("[0.25, 0.5, 1.0, 2.0]", "[0.25 0.5]", "expected a comma"),
    "a list that goes on": ("[0.25, 0.5, 1.0, 2.0]", "[0.25, ]", "expected a value"),
    "a misspelt crop size": ("initial_crop_size", "initial_crop_sise", "no initial_crop_size"),
    "no pooling": ("    maxpool_stride: 2\n", "", "no maxpool_stride"),
    "an R-FCN": ("mask_rcnn_box_predictor", "rfcn_box_predictor", "expected a mask_rcnn_box_predictor.*found rfcn_box_predictor"),
    "two record readers": ('label_map_path: "pets.pbtxt"\n}\n\neval', "tf_record_input_reader {}\n}\n\neval", "second time"),
    "two readers": ("eval_config", "train_input_reader {}\neval_config", "train_input_reader stands here for the second time"),
    "two models": ("train_config", "model { faster_rcnn {} }\ntrain_config", "model stands here for the second time"),
    "a list of readers": (
        "eval_input_reader: {",
        "eval_input_reader: [{}]\nother {",
        "expected eval_input_reader to be a message",
    ),
    "a byte order mark": ("# Faster", "\ufeff# Faster", "byte order mark"),
    "deep brackets": ("train_config", "a{" * 3000 + "}" * 3000 + "train_config", "at most 100 deep"),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_cannot_safely_be_changed_is_refused(name: str) -> None:
    old, new, said = UNSAFE[name]
    assert old in FASTER_RCNN
    with pytest.raises(InputError, match=said):
        bring_over(FASTER_RCNN.replace(old, new), FACTS)


def test_carriage_returns_alone_are_refused() -> None:
    with pytest.raises(InputError, match="carriage returns alone"):
        bring_over(FASTER_RCNN.replace("\n", "\r"), FACTS)


def test_a_result_that_does_not_parse_is_refused() -> None:
    document = Document("a { }\n")
    document.add(document.root, "b: {")
    with pytest.raises(TextProtoError, match="line 3: found the end of the file"):
        document.result()


def test_every_choice_counts_or_is_refused() -> None:
    every = Choices("model.ckpt", None, None, 500, 4, 1.0)
    for text in (bring_over(FASTER_RCNN, FACTS, every), pipeline_config(FACTS, "mask_rcnn_resnet50_atrous_coco", every)):
        found = [values(text, "train_config", name) for name in ("fine_tune_checkpoint", "num_steps", "batch_size")]
        assert found == [['"model.ckpt"'], ["500"], ["4"]]
        assert values(text, "train_input_reader", "shuffle_buffer_size") == ["10"]
    assert not values(bring_over(FASTER_RCNN, FACTS), "train_input_reader", "shuffle_buffer_size")
    without = FASTER_RCNN.replace("train_config: {\n  batch_size: 1\n}\n", "")
    for choices in (Choices("model.ckpt"), Choices(num_steps=5), Choices(batch_size=5)):
        with pytest.raises(InputError, match="no train_config"):
            bring_over(without, FACTS, choices)
    config = yaml.safe_load(model_garden_yaml(FACTS, every))
    assert config["trainer"]["train_steps"] == 500
    assert config["task"]["init_checkpoint"] == "model.ckpt"
    assert config["task"]["train_data"]["shuffle_buffer_size"] == 10
    for choices in (Choices(mask_prediction_conv_depth=0), Choices(mask_prediction_num_conv_layers=2)):
        with pytest.raises(InputError, match="is for the Object Detection API"):
            model_garden_yaml(FACTS, choices)


def test_learning_rates_go_with_the_batch() -> None:
    (name,) = [name for name, base in BASES.items() if base.tf2]
    path = (
        "train_config",
        "optimizer",
        "momentum_optimizer",
        "learning_rate",
        "cosine_decay_learning_rate",
        "learning_rate_base",
    )
    for batch, rate in ((16, 0.008), (1, 0.0005)):
        text = pipeline_config(FACTS, name, Choices(batch_size=batch))
        assert [float(value) for value in values(text, *path)] == [rate]
        assert (f"# the learning rate is {rate}, the published 0.008 x {batch} / 16" in text) == (batch != 16)


def test_a_yaml_for_the_model_garden() -> None:
    config = yaml.safe_load(model_garden_yaml(FACTS, Choices(batch_size=8)))
    assert config["task"]["model"]["num_classes"] == 91
    assert config["task"]["model"]["include_mask"] is True
    assert config["task"]["train_data"]["global_batch_size"] == 8
    assert config["task"]["train_data"]["parser"]["max_num_instances"] == 143
    assert config["trainer"]["train_steps"] == round(22_500 * 64 / 118_287 * (1000 // 8))
    learning = config["trainer"]["optimizer_config"]
    assert learning["learning_rate"]["stepwise"]["values"] == pytest.approx([0.12 / 8, 0.012 / 8, 0.0012 / 8])
    assert "init_checkpoint" not in config["task"]
    small = yaml.safe_load(model_garden_yaml(FACTS))["trainer"]["optimizer_config"]["learning_rate"]["stepwise"]["values"]
    assert all(isinstance(rate, float) for rate in small), "PyYAML takes 2e-05 for text"
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
    own.write_text(
        "# mind PATH_TO_BE_CONFIGURED\n"
        + FASTER_RCNN.replace("batch_size: 1", 'fine_tune_checkpoint: "PATH_TO_BE_CONFIGURED/model.ckpt"')
    )
    assert main(["trainer-config", str(demo_output.folder), "--update", str(own)]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^still to be configured by you, in line \d+: (.*)$", said, re.MULTILINE) == [
        'fine_tune_checkpoint: "PATH_TO_BE_CONFIGURED/model.ckpt"'
    ]


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


# ------------------------------------------------------------------------------------- from data set to configuration


def manifest_of(**records: int) -> dict[str, Any]:
    shards = [{"split": name, "file": f"{name}-00000-of-00001.tfrecord", "records": n, "bytes": n} for name, n in records.items()]
    return {"options": {"mask_encoding": "png"}, "shards": shards}


INSTANCES = {name: {"instances_an_image": {"max": 3}} for name in ("train", "val", "test", "other")}


def test_an_empty_split_is_passed_over_and_that_is_said() -> None:
    for records, evaluated in (({"val": 0}, "train"), ({"val": 0, "test": 2}, "test"), ({"val": 2, "test": 0}, "val")):
        facts = facts_of("data", manifest_of(train=5, **records), INSTANCES, [1])
        assert Path(facts.evaluation.glob).name.startswith(f"{evaluated}-")
        said = f"the split 'val' has no images, so {evaluated!r} is evaluated on"
        assert facts.notes == ((said,) if evaluated != "val" else ())
        for base in (MODEL_GARDEN, *BASES):
            assert (f"# {said}\n" in make_config(facts, base)) == (evaluated != "val")


@pytest.mark.parametrize(
    ("records", "instances", "splits", "said"),
    [
        ({"train": 0, "val": 5}, INSTANCES, (None, None), "the split 'train' has no images"),
        ({"train": 5, "val": 0}, INSTANCES, ("val", None), "the split 'val' has no images, so there is nothing to train on"),
        ({"train": 5, "val": 0}, INSTANCES, (None, "val"), "the split 'val' has no images, so there is nothing to evaluate on"),
        ({"train": 5}, {}, (None, None), "the split 'train' has no instances"),
        ({}, {}, (None, None), "has no shards"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    records: dict[str, int], instances: dict[str, Any], splits: tuple[str | None, str | None], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        facts_of("data", manifest_of(**records), instances, [1], *splits)


def copied(demo_output: Output, folder: Path, **files: str | None) -> Path:
    """The demo's records elsewhere, with files of another content, or taken away."""
    shutil.copytree(demo_output.folder, folder)
    for name, text in files.items():
        (folder / name).unlink() if text is None else (folder / name).write_text(text)
    return folder


def test_paths_are_absolute(demo_output: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied(demo_output, tmp_path / "records")
    monkeypatch.chdir(tmp_path)
    facts = read_facts("records")
    assert facts.train.glob == str(tmp_path / "records" / "train-?????-of-00002.tfrecord")
    assert facts.label_map == str(tmp_path / "records" / "label_map.pbtxt")


SLIM = "mask_rcnn_inception_v2_coco"


@pytest.mark.parametrize(
    ("name", "base", "refused"),
    [("a[b]", MODEL_GARDEN, True), ("a?", SLIM, True), ("a,b", MODEL_GARDEN, True), ("a,b", SLIM, False)],
)
def test_paths_that_trainers_would_take_apart_are_refused(
    demo_output: Output, demo_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, base: str, refused: bool
) -> None:
    moved = copied(demo_output, tmp_path / name / "records")
    assert main(["trainer-config", str(moved), "--base", base]) == 2 * refused
    monkeypatch.chdir(tmp_path / name)
    if refused:
        run_options = RunOptions(
            annotations=str(demo_data.annotations), images=str(demo_data.images), output="out", trainer_config=base
        )
        with pytest.raises(InputError, match="the data set needs a path without"):
            run(run_options, [])
        assert not (tmp_path / name / "out").exists()


def test_label_ids_are_the_items_own() -> None:
    assert label_ids('item {\n  id: 3\n  name: "a\u2028id: 999"\n}\nitem { id: 7 name: "id: 12" }\n') == [3, 7]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("_SUCCESS", None, "no complete data set of maskbeam's: it has no _SUCCESS"),
        ("train-00001-of-00002.tfrecord", None, "no complete data set of maskbeam's: train-00001-of-00002.tfrecord is not there"),
        ("manifest.json", "{}", "can't be read as a data set of maskbeam's"),
        ("manifest.json", "[]", "can't be read as a data set of maskbeam's"),
        ("statistics.json", "[]", "can't be read as a data set of maskbeam's"),
        ("label_map.pbtxt", "item { id: x }", "label_map.pbtxt can't be read: line 1: found 'x'"),
        ("label_map.pbtxt", 'item { name: "a" }', "expected every item to have an id"),
        ("label_map.pbtxt", "item { id: 0 }", "expected every item to have an id, 1 or higher"),
        ("label_map.pbtxt", "a{" * 3000, "label_map.pbtxt can't be read"),
        ("label_map.pbtxt", "", "has no categories"),
    ],
)
def test_a_data_set_that_is_not_whole_is_refused(
    demo_output: Output, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str | None, said: str
) -> None:
    output = copied(demo_output, tmp_path / "records", **{name: text})
    assert main(["trainer-config", str(output), "--base", MODEL_GARDEN]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--config", "{tmp}", "can't be written"),
        ("--config", "/proc/x/y", "can't be written"),
        ("--config", "foo://x", "can't be written"),
        ("--config", "{records}/manifest.json", "a file of the data set"),
        ("--config", "{records}/../records/label_map.csv", "a file of the data set"),
        ("--config", "{records}/val-00000-of-00002.tfrecord", "a file of the data set"),
        ("--update", "{tmp}", "can't be read"),
        *((option, "", "expected a name, found nothing") for option in ("--config", "--update", "--train_split", "--eval_split")),
    ],
)
def test_paths_and_names_that_make_no_sense_are_refused(
    demo_output: Output, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, said: str
) -> None:
    output = copied(demo_output, tmp_path / "records")
    arguments = [option, value.format(tmp=tmp_path, records=output)]
    try:
        status = main(["trainer-config", str(output), *([] if option == "--update" else ["--base", MODEL_GARDEN]), *arguments])
    except SystemExit as stopped:
        status = stopped.code  # type: ignore[assignment]
    (line,) = capsys.readouterr().err.splitlines()
    assert (status, said in line) == (2, True)
    assert digests(output) == digests(demo_output.folder)


def test_configurations_go_beside_the_records(demo_output: Output, tmp_path: Path) -> None:
    output = copied(demo_output, tmp_path / "records")
    for name in ("pipeline.config", "model_garden.yaml", "mine.config"):
        assert main(["trainer-config", str(output), "--base", MODEL_GARDEN, "--config", str(output / name)]) == 0
        assert (output / name).exists()


def test_that_the_training_split_is_evaluated_on_is_said(
    run_demo: Callable[..., Output], capsys: pytest.CaptureFixture[str]
) -> None:
    output = run_demo().folder
    assert main(["trainer-config", str(output), "--base", "mask_rcnn_inception_v2_coco"]) == 0
    said = capsys.readouterr()
    assert "there is no split to evaluate on but 'train' itself" in said.err
    assert "\n# there is no split to evaluate on but 'train' itself" in said.out

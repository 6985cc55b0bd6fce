"""`maskbeam trainer-config`: from a data set to the configuration that trains Mask R-CNN on it.

Three kinds: a whole pipeline.config of the Object Detection API, from one of the bases below; a Faster R-CNN pipeline.config of
the user's own, brought over; a YAML for the Model Garden. What they say of the data comes from the data set's manifest,
statistics and label map.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from apache_beam.io.filesystems import FileSystems

from beam_pipeline.dataset_files import GARDEN_CONFIG, LABEL_MAP, MANIFEST, OURS, PIPELINE_CONFIG, STATISTICS, SUCCESS
from beam_pipeline.text_proto import Block, Document, TextProtoError
from beam_pipeline.trainer_bases import BASES, MODEL_GARDEN, Base
from transforms import storage
from transforms.records import InputError

SHUFFLE_MEGABYTES = 1000.0
"""What a trainer's shuffle buffer may take, unless the user says otherwise."""
STEPS = 200_000
UNCONFIGURED = "PATH_TO_BE_CONFIGURED"  # what the published samples have in place of paths
MAX_SHUFFLE = 2048  # the Object Detection API's own default
GARDEN_PASSES = 22_500 * 64 / 118_287  # steps, batch and images of the published schedule


class SplitFacts(NamedTuple):
    """Of one split: where its shards are, how many images, the most instances an image has, a record's mean size."""

    glob: str
    images: int
    most_instances: int
    record_bytes: float


class Facts(NamedTuple):
    """What a trainer has to know of a data set. `highest_id` is the highest label id; `notes` are for the user."""

    encoding: str
    highest_id: int
    label_map: str
    train: SplitFacts
    evaluation: SplitFacts
    notes: tuple[str, ...] = ()


def absolute(path: str) -> str:
    """A path that is the same wherever it is read: a local one from the root on, a bucket's as it is."""
    return path if FileSystems.get_scheme(path) else os.path.abspath(path)


def check_place(output: str, base: str = "") -> None:
    """Raises `InputError` where trainers would not take a data set's paths for what they are."""
    path = absolute(output)
    if set(path) & set("*?[]"):
        raise InputError(f"{path}: trainers take *, ?, [ and ] for patterns, the data set needs a path without")
    if base == MODEL_GARDEN and "," in path:
        raise InputError(f"{path}: the Model Garden splits paths at commas, the data set needs a path without")


def read_facts(output: str, train_split: str | None = None, eval_split: str | None = None) -> Facts:
    """The facts of the data set in `output`, as `facts_of`. Raises `InputError` where there is none, or not all of it."""
    check_place(output)
    try:
        there = {storage.name_of(file.path) for file in storage.list_folder(output)}
        if SUCCESS not in there:
            raise InputError(f"{output} is no complete data set of maskbeam's: it has no {SUCCESS}")
        manifest = json.loads(storage.read_bytes(storage.join(output, MANIFEST)))
        statistics = json.loads(storage.read_bytes(storage.join(output, STATISTICS)))
        ids = label_ids(storage.read_bytes(storage.join(output, LABEL_MAP)).decode())
        gone = [shard["file"] for shard in manifest["shards"] if shard["file"] not in there]
        if gone:
            raise InputError(f"{output} is no complete data set of maskbeam's: {gone[0]} is not there")
        return facts_of(output, manifest, statistics, ids, train_split, eval_split)
    except InputError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {_one_line(error)}"
        raise InputError(f"{output} can't be read as a data set of maskbeam's, or has been changed ({said})") from None


def label_ids(label_map: str) -> list[int]:
    """The ids of a label map. Raises `InputError` where it is not what the Object Detection API reads."""
    try:
        document = Document(label_map)
        ids = [int(document.value(one)) for item in document.root.named("item") for one in item.message().named("id")]
    except ValueError as error:
        raise InputError(f"{LABEL_MAP} can't be read: {error}") from None
    if len(ids) < len(document.root.named("item")) or min(ids, default=1) < 1:
        raise InputError(f"{LABEL_MAP} can't be read: expected every item to have an id, 1 or higher")
    return ids


def facts_of(
    output: str,
    manifest: Mapping[str, Any],
    statistics: Mapping[str, Any],
    ids: Sequence[int],
    train_split: str | None = None,
    eval_split: str | None = None,
) -> Facts:
    """The facts of a data set from its manifest, its statistics and the ids of its label map.

    Without a name, the split `train` or else the first is trained on, and `val`, `validation`, `eval` or `test` evaluated on,
    whichever has images, or else what is trained on. Raises `InputError` where there is no such split, or nothing in it, or no
    category.
    """
    splits: dict[str, list[dict[str, Any]]] = {}
    for shard in manifest["shards"]:
        splits.setdefault(shard["split"], []).append(shard)
    for given in (train_split, eval_split):
        if given and given not in splits:
            raise InputError(f"{output} has no split {given!r}, only {', '.join(splits)}")
    if not splits:
        raise InputError(f"{output} has no shards, so there is nothing to train on")
    if not ids:
        raise InputError(f"{output} has no categories, so there is nothing to train")

    def facts(name: str) -> SplitFacts:
        shards = splits[name]
        images = sum(shard["records"] for shard in shards)
        glob = storage.join(absolute(output), f"{name}-?????-of-{len(shards):05d}.tfrecord")
        most = statistics.get(name, {}).get("instances_an_image", {}).get("max", 0)
        return SplitFacts(glob, images, int(most), sum(shard["bytes"] for shard in shards) / max(1, images))

    train_name = train_split or ("train" if "train" in splits else next(iter(splits)))
    train = facts(train_name)
    if not (train.images and train.most_instances):
        lacks = "instances" if train.images else "images"
        raise InputError(f"{output}: the split {train_name!r} has no {lacks}, so there is nothing to train on")
    usual = [name for name in ("val", "validation", "eval", "test") if name in splits]
    eval_name = eval_split or next((name for name in usual if facts(name).images), train_name)
    evaluation = facts(eval_name)
    if not evaluation.images:
        raise InputError(f"{output}: the split {eval_name!r} has no images, so there is nothing to evaluate on")
    notes: tuple[str, ...] = ()
    if usual and not eval_split and eval_name != usual[0]:
        notes = (f"the split {usual[0]!r} has no images, so {eval_name!r} is evaluated on",)
    elif not usual and not eval_split:
        notes = (f"there is no split to evaluate on but {train_name!r} itself: run --splits train=0.9,val=0.1 makes one",)
    encoding = manifest["options"]["mask_encoding"]
    return Facts(encoding, max(ids), storage.join(absolute(output), LABEL_MAP), train, evaluation, notes)


def shuffle_buffer(split: SplitFacts, megabytes: float | None) -> int:
    """How many records a shuffle buffer of so many megabytes holds, at most the split, at least one."""
    megabytes = SHUFFLE_MEGABYTES if megabytes is None else megabytes
    return max(1, min(MAX_SHUFFLE, split.images, int(megabytes * 1e6 / max(1.0, split.record_bytes))))


# --------------------------------------------------------------------------------------- the Object Detection API


class Choices(NamedTuple):
    """What the user decides; what is None is as in the published configurations, or in the user's own."""

    fine_tune_checkpoint: str | None = None
    mask_prediction_conv_depth: int | None = None
    mask_prediction_num_conv_layers: int | None = None
    num_steps: int | None = None
    batch_size: int | None = None
    shuffle_megabytes: float | None = None


Message = list[tuple[str, Any]]
"""Fields of a message in order: a value is text as it is written, or a message."""


def _text(message: Message, indent: str = "") -> str:
    lines = []
    for name, value in message:
        if isinstance(value, list):
            lines.append(f"{indent}{name} {{\n{_text(value, indent + '  ')}{indent}}}\n")
        else:
            lines.append(f"{indent}{name}: {value}\n")
    return "".join(lines)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _hyperparams(op: str, initializer: Message) -> Message:
    return [("op", op), ("regularizer", [("l2_regularizer", [("weight", "0.0")])]), ("initializer", initializer)]


_CONV: Message = _hyperparams("CONV", [("truncated_normal_initializer", [("stddev", "0.01")])])
_FC: Message = _hyperparams(
    "FC", [("variance_scaling_initializer", [("factor", "1.0"), ("uniform", "true"), ("mode", "FAN_AVG")])]
)


def mask_type(encoding: str) -> str:
    """`InputReader.mask_type` for an encoding."""
    return "NUMERICAL_MASKS" if encoding == "dense" else "PNG_MASKS"


def _reader(facts: Facts, split: SplitFacts, evaluating: bool, megabytes: float | None) -> Message:
    reader: Message = [
        ("label_map_path", _quoted(facts.label_map)),
        ("load_instance_masks", "true"),
        ("mask_type", mask_type(facts.encoding)),
        ("max_number_of_boxes", str(max(1, split.most_instances))),
    ]
    if evaluating:
        reader += [("shuffle", "false"), ("num_readers", "1"), ("num_epochs", "1")]
    else:
        reader.append(("shuffle_buffer_size", str(shuffle_buffer(split, megabytes))))
    reader.append(("tf_record_input_reader", [("input_path", _quoted(split.glob))]))
    return reader


def pipeline_config(facts: Facts, name: str, choices: Choices = Choices()) -> str:
    """A complete pipeline.config in protobuf's text format, from one of `BASES`.

    `max_number_of_boxes` is the most instances that an image of the split has, so that none is cut off; the trainers' own
    default is 100. Source of the values: the published configurations of the same names.
    """
    base = BASES[name]
    batch, num_steps = choices.batch_size or 1, choices.num_steps or STEPS
    rate = base.learning_rate * batch / base.batch
    layers = choices.mask_prediction_num_conv_layers
    depth = choices.mask_prediction_conv_depth
    predictor: Message = [
        ("use_dropout", "false"),
        ("dropout_keep_probability", "1.0"),
        ("predict_instance_masks", "true"),
        ("mask_height", str(base.mask_size)),
        ("mask_width", str(base.mask_size)),
        ("mask_prediction_conv_depth", str(0 if depth is None else depth)),
        ("mask_prediction_num_conv_layers", str(base.mask_layers if layers is None else layers)),
        ("fc_hyperparams", _FC),
        ("conv_hyperparams", _CONV),
    ]
    extractor: Message = [("type", _quoted(base.extractor))]
    resizer: Message = [("keep_aspect_ratio_resizer", [("min_dimension", "800"), ("max_dimension", "1365")])]
    if base.tf2:
        resizer = [("fixed_shape_resizer", [("height", "1024"), ("width", "1024")])]
    else:
        extractor.append(("first_stage_features_stride", str(base.stride)))
    anchors: Message = [
        ("scales", "[0.25, 0.5, 1.0, 2.0]"),
        ("aspect_ratios", "[0.5, 1.0, 2.0]"),
        ("height_stride", str(base.stride)),
        ("width_stride", str(base.stride)),
    ]
    nms: Message = [
        ("score_threshold", "0.0"),
        ("iou_threshold", "0.6"),
        ("max_detections_per_class", "100"),
        ("max_total_detections", str(base.detections)),
    ]
    model: Message = [
        ("num_classes", str(facts.highest_id)),
        ("number_of_stages", "3"),
        ("image_resizer", resizer),
        ("feature_extractor", extractor),
        ("first_stage_anchor_generator", [("grid_anchor_generator", anchors)]),
        *([("first_stage_atrous_rate", str(base.atrous_rate))] if base.atrous_rate else []),
        ("first_stage_box_predictor_conv_hyperparams", _CONV),
        ("first_stage_nms_score_threshold", "0.0"),
        ("first_stage_nms_iou_threshold", "0.7"),
        ("first_stage_max_proposals", "300"),
        ("first_stage_localization_loss_weight", "2.0"),
        ("first_stage_objectness_loss_weight", "1.0"),
        ("initial_crop_size", str(base.crop)),
        ("maxpool_kernel_size", str(base.pool)),
        ("maxpool_stride", str(base.pool)),
        ("second_stage_box_predictor", [("mask_rcnn_box_predictor", predictor)]),
        ("second_stage_post_processing", [("batch_non_max_suppression", nms), ("score_converter", "SOFTMAX")]),
        ("second_stage_localization_loss_weight", "2.0"),
        ("second_stage_classification_loss_weight", "1.0"),
        ("second_stage_mask_prediction_loss_weight", "4.0"),
    ]
    if base.tf2:
        model.append(("resize_masks", "false"))
    train: Message = [
        ("batch_size", str(batch)),
        ("num_steps", str(num_steps)),
        ("optimizer", _optimizer(base, rate, num_steps)),
        ("gradient_clipping_by_norm", "10.0"),
        ("data_augmentation_options", [("random_horizontal_flip", [])]),
    ]
    if choices.fine_tune_checkpoint:
        train.append(("fine_tune_checkpoint", _quoted(choices.fine_tune_checkpoint)))
        if base.tf2:
            train += [("fine_tune_checkpoint_type", '"detection"'), ("fine_tune_checkpoint_version", "V2")]
        else:
            train.append(("from_detection_checkpoint", "true"))
    evaluation: Message = [
        ("num_examples", str(facts.evaluation.images)),
        ("metrics_set", '"coco_detection_metrics"'),
        ("metrics_set", '"coco_mask_metrics"'),
        ("eval_instance_masks", "true"),
    ]
    scaled = (
        f"the learning rate is {_decimal(rate)}, the published {base.learning_rate} x {batch} / {base.batch}, by the batch sizes"
    )
    return _header(name, facts, *([scaled] if batch != base.batch else [])) + "\n".join(
        _text([part])
        for part in (
            ("model", [("faster_rcnn", model)]),
            ("train_config", train),
            ("train_input_reader", _reader(facts, facts.train, False, choices.shuffle_megabytes)),
            ("eval_config", evaluation),
            ("eval_input_reader", _reader(facts, facts.evaluation, True, choices.shuffle_megabytes)),
        )
    )


def _header(name: str, facts: Facts, *more: str) -> str:
    """Comments for the top of a configuration."""
    first = f"{name}, written by maskbeam for {facts.train.images} images with {facts.highest_id} classes"
    return "".join(f"# {line}\n" for line in (first, *facts.notes, *more)) + "\n"


def _decimal(number: float) -> str:
    """A number without an exponent: YAML takes 5e-05 for text."""
    return f"{Decimal(f'{number:.6g}'):f}"


def _optimizer(base: Base, rate: float, num_steps: int) -> Message:
    schedule: Message
    if base.tf2:
        warmup = min(5000, num_steps // 10)
        cosine = [("learning_rate_base", _decimal(rate)), ("total_steps", str(num_steps))]
        schedule = [("cosine_decay_learning_rate", [*cosine, ("warmup_learning_rate", "0.0"), ("warmup_steps", str(warmup))])]
    else:
        steps = [(900_000, rate / 10), (1_200_000, rate / 100)]
        drops = [("schedule", [("step", str(step)), ("learning_rate", _decimal(value))]) for step, value in steps]
        schedule = [("manual_step_learning_rate", [("initial_learning_rate", _decimal(rate)), *drops])]
    momentum: Message = [("learning_rate", schedule), ("momentum_optimizer_value", "0.9")]
    return [("momentum_optimizer", momentum), ("use_moving_average", "false")]


# ------------------------------------------------------------------------------------ a Faster R-CNN, brought over


def bring_over(text: str, facts: Facts, choices: Choices = Choices()) -> str:
    """A Faster R-CNN pipeline.config changed into a Mask R-CNN one for this data; all else stays as it was, comments too.

    Raises `InputError` for what is no Faster R-CNN, or can't be parsed, or not be changed in place.
    """
    try:
        return _bring_over(Document(text), facts, choices)
    except TextProtoError as error:
        raise InputError(f"the configuration can't be brought over: {error}") from None


def _bring_over(document: Document, facts: Facts, choices: Choices) -> str:
    root = document.root
    kind, model = root.message("model"), root.message("model", "faster_rcnn")
    found = ", ".join(sorted({one.name for one in kind.fields})) if kind else "no model at all"
    if model is None or found != "faster_rcnn":
        raise InputError(
            f"expected the configuration of a Faster R-CNN (model {{ faster_rcnn {{ … }} }}), found {found or 'nothing'}"
        )
    document.set(model, "num_classes", str(facts.highest_id))
    document.set(model, "number_of_stages", "3")
    _add_mask_predictor(document, model, choices)
    _bring_reader(document, "train_input_reader", facts, facts.train, choices)
    _bring_reader(document, "eval_input_reader", facts, facts.evaluation, choices)
    evaluation = root.message("eval_config")
    if evaluation is None:
        metrics = [("num_examples", str(facts.evaluation.images)), ("metrics_set", '"coco_mask_metrics"')]
        document.add(root, _text([("eval_config", metrics)]).rstrip("\n"))
    else:
        document.set(evaluation, "num_examples", str(facts.evaluation.images))
        document.set(evaluation, "metrics_set", '"coco_mask_metrics"')
    train = root.message("train_config")
    for option in ("fine_tune_checkpoint", "num_steps", "batch_size"):
        value = getattr(choices, option)
        if value is not None and train is None:
            raise InputError(f"--{option}: the configuration has no train_config to set it in")
        if value is not None and train is not None:
            document.set(train, option, _quoted(value) if isinstance(value, str) else str(value))
    return document.result()


def _bring_reader(document: Document, name: str, facts: Facts, split: SplitFacts, choices: Choices) -> None:
    evaluating = name == "eval_input_reader"
    fields = _reader(facts, split, evaluating, choices.shuffle_megabytes)
    entry = next(iter(document.root.named(name)), None) if evaluating else document.root.only(name)
    if entry is None:
        document.add(document.root, _text([(name, fields)]).rstrip("\n"))
        return
    reader = entry.message()
    for other in document.root.named(name)[1:]:  # evaluation may have several readers, but there is only one data set now
        document.remove(other)
    wanted = dict(fields)
    for field in ("label_map_path", "load_instance_masks", "mask_type", "max_number_of_boxes"):
        document.set(reader, field, wanted[field])
    if choices.shuffle_megabytes is not None and not evaluating:
        document.set(reader, "shuffle_buffer_size", wanted["shuffle_buffer_size"])
    for external in reader.named("external_input_reader"):
        document.remove(external)
    records = reader.message("tf_record_input_reader")
    if records is None:
        document.add(reader, _text([("tf_record_input_reader", wanted["tf_record_input_reader"])]).rstrip("\n"))
    else:
        document.set(records, "input_path", _quoted(split.glob))


def _add_mask_predictor(document: Document, model: Block, choices: Choices) -> None:
    depth = choices.mask_prediction_conv_depth
    layers = choices.mask_prediction_num_conv_layers
    wanted: Message = [
        ("predict_instance_masks", "true"),
        ("mask_prediction_conv_depth", str(0 if depth is None else depth)),
        ("mask_prediction_num_conv_layers", str(2 if layers is None else layers)),
    ]
    kind = model.message("second_stage_box_predictor")
    others = sorted({one.name for one in kind.fields} - {"mask_rcnn_box_predictor"}) if kind else []
    if others:
        raise InputError(f"expected a mask_rcnn_box_predictor as the second stage's predictor, found {', '.join(others)}")
    for name, size in (("initial_crop_size", 14), ("maxpool_kernel_size", 2), ("maxpool_stride", 2)):
        if not model.named(name):
            raise InputError(f"the model has no {name}, which a Mask R-CNN needs: most published ones have {size}")
    predictor = model.message("second_stage_box_predictor", "mask_rcnn_box_predictor")
    if predictor is None:
        for entry in model.named("second_stage_box_predictor"):  # an empty one
            document.remove(entry)
        made: Message = [("mask_rcnn_box_predictor", [*wanted, ("fc_hyperparams", _FC), ("conv_hyperparams", _CONV)])]
        document.add(model, _text([("second_stage_box_predictor", made)]).rstrip("\n"))
        return
    for name, value in wanted:
        given = {"mask_prediction_conv_depth": depth, "mask_prediction_num_conv_layers": layers}
        if predictor.named(name) and name in given and given[name] is None:
            continue  # the user's own value stands, unless a new one is asked for
        document.set(predictor, name, value)
    if not predictor.named("conv_hyperparams"):
        document.add(predictor, _text([("conv_hyperparams", _CONV)]).rstrip("\n"))


def difference(before: str, after: str, name: str) -> str:
    """What has changed, as a unified diff."""
    old, new = (text.removesuffix("\n").split("\n") for text in (before, after))
    lines = difflib.unified_diff(old, new, name, f"{name} (Mask R-CNN)", lineterm="")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ the Model Garden


def model_garden_yaml(facts: Facts, choices: Choices = Choices()) -> str:
    """A YAML for `official.vision`'s `maskrcnn_resnetfpn_coco`, to be given with `--config_file`.

    Steps are counted from the number of images, as many passes over them as the published schedule makes over COCO, and the
    learning rate from the batch. What is not written stays as published, such as the backbone that training starts from. Its
    classes are the highest id and the background, 0. Raises `InputError` for dense masks, which it can't read, and for what
    only the Object Detection API can be told.
    """
    if facts.encoding == "dense":
        raise InputError("the Model Garden can't read dense masks: run again with --mask_encoding png")
    for option in ("mask_prediction_conv_depth", "mask_prediction_num_conv_layers"):
        if getattr(choices, option) is not None:
            raise InputError(f"--{option} is for the Object Detection API, the Model Garden's mask head is not set by it")
    check_place(str(FileSystems.split(facts.train.glob)[0]), MODEL_GARDEN)
    train, evaluation = facts.train, facts.evaluation
    batch = min(choices.batch_size or 1, max(1, train.images))
    eval_batch = math.gcd(evaluation.images, 8) if evaluation.images else 1
    epoch = max(1, train.images // batch)
    total = choices.num_steps or max(1, round(GARDEN_PASSES * epoch))
    scale = batch / 64  # of the published learning rates
    warmup = max(1, min(500, total // 10))
    most = max(1, train.most_instances, evaluation.most_instances)
    values: Mapping[str, Any] = {
        "runtime": {"distribution_strategy": "one_device", "mixed_precision_dtype": "float32"},
        "task": {
            **({"init_checkpoint": choices.fine_tune_checkpoint} if choices.fine_tune_checkpoint else {}),
            "annotation_file": None,
            "model": {"num_classes": facts.highest_id + 1, "include_mask": True, "input_size": [1024, 1024, 3]},
            "train_data": _garden_data(train, batch, True, most)
            | {"shuffle_buffer_size": shuffle_buffer(train, choices.shuffle_megabytes)},
            "validation_data": _garden_data(evaluation, eval_batch, False, most),
        },
        "trainer": {
            "train_steps": total,
            "steps_per_loop": min(epoch, total),
            "summary_interval": min(epoch, total),
            "checkpoint_interval": min(epoch, total),
            "validation_interval": min(epoch, total),
            "validation_steps": max(1, evaluation.images // eval_batch),
            "optimizer_config": {
                "optimizer": {"type": "sgd", "sgd": {"momentum": 0.9}},
                "learning_rate": {
                    "type": "stepwise",
                    "stepwise": {
                        "boundaries": [max(1, round(total * 2 / 3)), max(2, round(total * 8 / 9))],
                        "values": [0.12 * scale, 0.012 * scale, 0.0012 * scale],
                    },
                },
                "warmup": {"type": "linear", "linear": {"warmup_steps": warmup, "warmup_learning_rate": 0.0067 * scale}},
            },
        },
    }
    return _header("Mask R-CNN", facts) + _yaml(values)


def _garden_data(split: SplitFacts, batch: int, training: bool, most: int) -> dict[str, Any]:
    return {
        "input_path": split.glob,
        "is_training": training,
        "global_batch_size": batch,
        "drop_remainder": training,
        "dtype": "float32",
        "parser": {"max_num_instances": most},
    }


def _yaml(values: Mapping[str, Any], indent: str = "") -> str:
    """JSON's scalars and lists are YAML's too, but for exponents."""
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{name}:\n{_yaml(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{name}: {_yaml_value(value)}\n")
    return "".join(lines)


def _yaml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml_value, value))}]"
    return _decimal(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


# --------------------------------------------------------------------------------------------------- the command


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def check_target(output: str, config: str) -> None:
    """Raises `InputError` where writing a configuration would replace another file of the data set."""
    parts = FileSystems.split(config if FileSystems.get_scheme(config) else os.path.realpath(config))
    folder = output if FileSystems.get_scheme(output) else os.path.realpath(output)
    own = [pattern for pattern in OURS if pattern not in (PIPELINE_CONFIG, GARDEN_CONFIG)]
    if parts[0].rstrip("/") == folder.rstrip("/") and any(fnmatch.fnmatchcase(parts[1], pattern) for pattern in own):
        raise InputError(f"--config {config}: that is a file of the data set, choose another name")


def make_config(facts: Facts, base: str, choices: Choices = Choices()) -> str:
    """The configuration of a base, whichever trainer it is for."""
    return model_garden_yaml(facts, choices) if base == MODEL_GARDEN else pipeline_config(facts, base, choices)


def config_command(
    output: str, base: str | None, update: str | None, config: str | None, splits: tuple[str | None, str | None], choices: Choices
) -> int:
    """Prints a configuration for the data set in `output`, or writes it to `config`; shows what it changes of one's own."""
    try:
        if config:
            check_target(output, config)
    except ValueError as error:
        raise InputError(f"--config {config} can't be written: {_one_line(error)}") from None
    facts = read_facts(output, *splits)
    for note in facts.notes:
        print(f"maskbeam: {note}", file=sys.stderr)
    if update:
        try:
            own = storage.read_bytes(update).decode()
        except Exception as error:
            raise InputError(f"--update {update} can't be read: {_one_line(error)}") from None
        text = bring_over(own, facts, choices)
        print(difference(own, text, update))
        lines = text.split("\n")
        for number in Document(text).lines_with(UNCONFIGURED):
            print(f"still to be configured by you, in line {number}: {lines[number - 1].strip()}")
    else:
        text = make_config(facts, str(base), choices)
        if not config:
            print(text, end="")
    if config:
        try:
            storage.write_bytes(config, text.encode())
        except Exception as error:
            raise InputError(f"--config {config} can't be written: {_one_line(error)}") from None
        print(f"{config}: written for {facts.train.images:,} images to train on, {facts.evaluation.images:,} to evaluate on")
    return 0

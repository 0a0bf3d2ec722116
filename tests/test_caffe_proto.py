"""Caffe's schema: BVLC's numbers, the forks' names, and the compiled descriptors."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import zipfile

import pytest
from google.protobuf import descriptor_pb2

from stage_extract import descriptors
from tests.paths import ROOT, SHARED

FACTS = SHARED / "design" / "caffe-proto-facts.md"
SCHEMAS = ROOT / "schemas"


def fields(message):
    return descriptors.message(message).fields_by_name


@pytest.mark.skipif(importlib.util.find_spec("grpc_tools") is None, reason="no grpcio-tools")
def test_the_descriptors_are_those_of_the_proto(tmp_path):
    out = tmp_path / "caffe.desc"
    tool = str(ROOT / "tools" / "compile_proto.py")
    subprocess.run([sys.executable, tool, str(out)], check=True)
    again, kept = out.read_bytes(), (SCHEMAS / "caffe.desc").read_bytes()
    parse = descriptor_pb2.FileDescriptorSet.FromString
    assert parse(again) == parse(kept), "schemas/caffe.desc is old: run `make proto`"


def bvlc_tables():
    """(message, number, name, type, label, default, packed) of every row of BVLC's tables."""
    rows, message = [], None
    text = FACTS.read_text(encoding="utf-8") if FACTS.is_file() else ""
    for line in text.partition("### 1.2 ")[2].partition("\n## 2.")[0].splitlines():
        title = re.fullmatch(r"(?:\*\*|### 1\.[45] )(\w+)(?:\*\*)?", line)
        row = re.fullmatch(r"\| (\d+) \| (\w+) \| (\w+) \| (opt|rep|req) \| (.*) \| (.*) ?\|", line)
        if title:
            message = title.group(1)
        elif row:
            rows.append((message, *row.groups()))
    return rows


def bvlc_enums():
    """(enum, value's name, number) of every value of BVLC's enums."""
    text = FACTS.read_text(encoding="utf-8") if FACTS.is_file() else ""
    found = re.findall(r"^\| ([\w.]+) \| (\w+=\d+(?:, \w+=\d+)*) \|$", text, re.MULTILINE)
    found += re.findall(r"^`(V1LayerParameter\.LayerType)`: (.*)$", text, re.MULTILINE)
    return [(enum, *pair.split("=")) for enum, values in found for pair in values.split(", ")]


# Where the tables are wrong: BVLC writes this one as ".999".
CORRECTED = {("BatchNormParameter", "moving_average_fraction"): "0.999"}

LABELS = {"opt": (False, False), "rep": (True, False), "req": (False, True)}


def as_written(field):
    """A field's default as a proto file has it."""
    found = field.default_value
    if field.enum_type:
        return field.enum_type.values_by_number[found].name
    return str(found).lower() if isinstance(found, bool) else found


def number_or_word(text):
    try:
        return pytest.approx(float(text), rel=1e-6)
    except ValueError:
        return text.strip("'\"")


@pytest.mark.skipif(not FACTS.is_file(), reason=f"no facts at {FACTS}")
def test_every_field_of_bvlc_is_there_under_its_number():
    rows = bvlc_tables()
    assert len(rows) == 423
    for message, number, name, type_, label, written, packed in rows:
        field = fields(message)[name]
        where = f"{message}.{name}"
        assert field.number == int(number), where
        of = field.message_type or field.enum_type
        numeric = getattr(field, f"TYPE_{type_.upper()}", None)
        assert of.name == type_ if of else field.type == numeric, where
        assert (descriptors.is_repeated(field), descriptors.is_required(field)) == LABELS[label]
        assert field.has_options == (packed.strip() == "yes"), where
        default = CORRECTED.get((message, name), written.strip())
        assert field.has_default_value == bool(default), where
        if default:
            assert as_written(field) == number_or_word(default), where


@pytest.mark.skipif(not FACTS.is_file(), reason=f"no facts at {FACTS}")
def test_every_enum_of_bvlc_is_there_under_its_numbers():
    values = bvlc_enums()
    assert len({enum for enum, _, _ in values}) == 26
    for enum, name, number in values:
        found = descriptors.pool().FindEnumTypeByName(f"caffe.{enum}")
        assert found.values_by_name[name].number == int(number), (enum, name)


# Facts about Caffe that its users rely on, by hand.
BY_HAND = [
    ("NetParameter", "layer", 100, []),
    ("NetParameter", "layers", 2, []),
    ("LayerParameter", "blobs", 7, []),
    ("LayerParameter", "convolution_param", 106, None),
    ("LayerParameter", "batch_norm_param", 139, None),
    ("LayerParameter", "input_param", 143, None),
    ("LayerParameter", "clip_param", 148, None),
    ("BlobProto", "data", 5, []),
    ("BlobProto", "shape", 7, None),
    ("BatchNormParameter", "eps", 3, 1e-5),
    ("BatchNormParameter", "moving_average_fraction", 2, 0.999),
    ("ConvolutionParameter", "dilation", 18, []),
    ("DropoutParameter", "dropout_ratio", 1, 0.5),
    ("LRNParameter", "local_size", 1, 5),
    ("LRNParameter", "k", 5, 1.0),
    ("MVNParameter", "eps", 3, 1e-9),
    ("PoolingParameter", "round_mode", 13, 0),
    ("PowerParameter", "power", 1, 1.0),
    ("ReductionParameter", "operation", 1, 1),
    ("ExpParameter", "base", 1, -1.0),
]


@pytest.mark.parametrize(("message", "name", "number", "default"), BY_HAND, ids=str)
def test_facts_by_hand(message, name, number, default):
    field = fields(message)[name]
    assert field.number == number
    found = field.default_value
    assert found == (pytest.approx(default, rel=1e-6) if isinstance(default, float) else default)


def test_forks_take_none_of_bvlcs_numbers():
    numbers = [field.number for field in descriptors.message("LayerParameter").fields]
    assert sorted(n for n in numbers if n < descriptors.FORKS) == [
        *range(1, 12),
        *range(100, 149),
    ]
    assert max(numbers) > descriptors.FORKS


NAMED_BY_FORKS = """
LayerParameter.annotated_data_param LayerParameter.bn_param LayerParameter.channel_scale_param
LayerParameter.channel_shuffle_param LayerParameter.correlation_param LayerParameter.crop_param
LayerParameter.deformable_convolution_param LayerParameter.detection_output_param
LayerParameter.flow_warp_param LayerParameter.inner_distance_param LayerParameter.interp_param
LayerParameter.lstm_param LayerParameter.multibox_loss_param LayerParameter.norm_param
LayerParameter.normalize_param LayerParameter.permute_param LayerParameter.prior_box_param
LayerParameter.proposal_param LayerParameter.psroi_align_param LayerParameter.psroi_pooling_param
LayerParameter.region_param LayerParameter.relu6_param LayerParameter.relux_param
LayerParameter.reorg_param LayerParameter.resample_param LayerParameter.reverse_param
LayerParameter.roi_align_param LayerParameter.roi_pooling_param LayerParameter.selu_param
LayerParameter.shuffle_channel_param LayerParameter.smooth_l1_loss_param
LayerParameter.transpose_param LayerParameter.upsample_param LayerParameter.video_data_param
LayerParameter.yolo_detection_output_param LayerParameter.yolov3_detection_output_param
BatchNormParameter.use_weight_bias BatchNormParameter.scale_bias BNParameter.bn_mode
BNParameter.slope_filler BNParameter.var_eps ConvolutionParameter.tf_pad
ConvolutionParameter.filter_stride DetectionOutputParameter.nms_param
DetectionOutputParameter.side DropoutParameter.sample_weights_test DropoutParameter.scale_train
InterpParameter.shrink_factor NormalizeParameter.across_spatial NormalizeParameter.normalize_type
PoolingParameter.ceil_mode PoolingParameter.torch_pooling PriorBoxParameter.reduce_boxes
ReLU6Parameter.negative_slope ReshapeParameter.pixelshuffler ScaleParameter.min_value
TransformationParameter.resize_param UpsampleParameter.upsample_h V1LayerParameter.bn_param
""".split()  # noqa: SIM905 (a table of names reads better without quotes)


@pytest.mark.parametrize("path", NAMED_BY_FORKS)
def test_fields_of_forks_are_known_by_name(path):
    message, _, name = path.partition(".")
    assert name in fields(message)


@pytest.mark.parametrize(
    ("message", "name", "default"),
    [
        ("PoolingParameter", "ceil_mode", True),
        ("PoolingParameter", "torch_pooling", False),
        ("DropoutParameter", "scale_train", True),
        ("NormalizeParameter", "across_spatial", True),
        ("ROIPoolingParameter", "spatial_scale", 1.0),
    ],
)
def test_defaults_that_forks_agree_about(message, name, default):
    field = fields(message)[name]
    assert field.has_default_value
    assert field.default_value == default


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("UpsampleParameter", "scale"),
        ("BatchNormParameter", "update_global_stats"),
        ("DetectionOutputParameter", "confidence_threshold"),
        ("FocalLossParameter", "alpha"),
    ],
)
def test_no_default_where_forks_disagree(message, name):
    assert not fields(message)[name].has_default_value


def test_values_of_forks_follow_bvlcs():
    operations = fields("EltwiseParameter")["operation"].enum_type.values
    numbers = {value.name: value.number for value in operations}
    bvlc = {name: number for name, number in numbers.items() if number < descriptors.FORKS}
    assert bvlc == {"PROD": 0, "SUM": 1, "MAX": 2}
    assert {"DIV", "MIN", "SORT", "STOCHASTIC_SUM"} == set(numbers) - set(bvlc)


IN_A_ZIP = """
import sys
sys.path.insert(0, {zip!r})
from google.protobuf import descriptor_pb2, descriptor_pool

# What PyCaffe's caffe_pb2 does: other messages under the same names, in the common pool.
theirs = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe")
theirs.message_type.add(name="NetParameter")
descriptor_pool.Default().AddSerializedFile(theirs.SerializeToString())
assert not descriptor_pool.Default().FindMessageTypeByName("caffe.NetParameter").fields

from stage_extract import descriptors, prototxt
assert descriptors.__file__.startswith({zip!r})
net = prototxt.parse("layer {{ name: 'a' }}", "net.prototxt")
made = descriptors.message_class("NetParameter")(name="a")
print(net.fields["layer"][0].fields["name"], type(made).FromString(made.SerializeToString()).name)
"""


def test_inside_a_zip_beside_another_caffe_proto(tmp_path):
    archive = tmp_path / "stage.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for room in ("schemas", "stage_extract"):
            for path in sorted((ROOT / room).rglob("*.*")):
                if path.parent.name != "__pycache__":
                    file.write(path, path.relative_to(ROOT))
    script = IN_A_ZIP.format(zip=str(archive))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "a a\n"


def test_every_message_can_be_read_by_its_own_name():
    assert descriptors.message("LayerParameter").full_name == "caffe.LayerParameter"
    with pytest.raises(KeyError):
        descriptors.message("NoParameter")

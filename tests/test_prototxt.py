"""The prototxt reader, with protobuf's own text_format as the witness."""

from __future__ import annotations

import gzip
import io
import math
import random
import struct
import time
import zipfile

import pytest
from google.protobuf import text_format

from schemas.errors import MalformedModel, UsageError
from stage_extract import descriptors, prototxt
from tests.paths import SHARED

FILES = sorted(SHARED.rglob("*.prototxt"))


def float32(value):
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def witness(text):
    """What text_format reads, in the form of Message.document, floats rounded as protobuf does."""
    net = descriptors.message_class("NetParameter")()
    text_format.Parse(text, net)
    return plain(net)


def plain(message):
    found = {}
    for field, value in message.ListFields():
        repeated = descriptors.is_repeated(field)
        items = [one(field, item) for item in (value if repeated else [value])]
        found[field.name] = items if repeated else items[0]
    return found


def one(field, value):
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return repr(value) if isinstance(value, float) else value


def rounded(message):
    """Message.document with floats as float32, written out so that NaN equals NaN."""
    schema = descriptors.message(message.type).fields_by_name
    found = {}
    for name, value in message.fields.items():
        items = []
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, prototxt.Message):
                items.append(rounded(item))
            elif isinstance(item, float):
                single = schema[name].cpp_type == schema[name].CPPTYPE_FLOAT
                items.append(repr(float32(item) if single else item))
            else:
                items.append(item)
        if items:
            found[name] = items if isinstance(value, list) else items[0]
    return found


def layer(text):
    """The one layer of a net that has `text` as its fields, from line 2 on."""
    return prototxt.parse("layer {\n" + text + "\n}", "net.prototxt").fields["layer"][0]


def refused(text):
    with pytest.raises(MalformedModel) as caught:
        prototxt.parse(text, "net.prototxt")
    return caught.value


@pytest.mark.skipif(not FILES, reason=f"no prototxts at {SHARED}")
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SHARED)))
def test_every_prototxt_is_read_as_text_format_reads_it(path):
    net = prototxt.read(path)
    assert rounded(net) == witness(path.read_text())
    assert net.unknown == []


AGREED = {
    "plain": 'layer { name: "a" type: "ReLU" }',
    "no separators": 'layer{name:"a"top:"b"}',
    "commas": 'layer { name: "a", top: "b", top: "c" },',
    "semicolons": 'layer { name: "a"; top: "b"; };',
    "angle brackets": 'layer < name: "a" relu_param: < negative_slope: 0.5 > >',
    "colon before message": "layer: { relu_param: { } }",
    "empty message": "layer { relu_param { } }",
    "short list": "layer { convolution_param { kernel_size: [3, 5] pad: [ 1 , 2 ] stride: [] } }",
    "list of messages": 'layer [ { name: "a" }, < name: "b" > ] layer: [{}]',
    "list after single": "layer { convolution_param { pad: 1 pad: [2, 3] pad: 4 } }",
    "comments": '# one\nlayer { # two {\n name: "a#b" # three\n}\n# four',
    "CRLF": 'layer {\r\n  name: "a"\r\n  top: "b"\r\n}\r\n',
    "tabs": 'layer\t{\tname:\t"a"\f\v}',
    "joined strings": 'layer { name: "a" \'b\'\n"c" top: "d" }',
    "other quotes": """layer { name: 'say "hi"' top: "it's" }""",
    "named escapes": r"""layer { name: "\a\b\f\n\r\t\v\\\'\"" }""",
    "octal escapes": r'layer { name: "\101\7\1012\0" }',
    "hexadecimal escapes": r'layer { name: "\x41\x4g" }',
    "escaped UTF-8": r'layer { name: "\303\251" }',
    "UTF-8": 'layer { name: "café" }',
    "decimal": "layer { convolution_param { pad: 0 kernel_size: 12 } }",
    "hexadecimal": "layer { convolution_param { pad: 0x1F pad: 0XaB } }",
    "octal": "layer { convolution_param { pad: 017 } }",
    "negative": "layer { concat_param { axis: -1 } softmax_param { axis: -2 } }",
    "largest": "layer { concat_param { axis: 2147483647 concat_dim: 4294967295 } }",
    "least": "layer { concat_param { axis: -2147483648 } }",
    "large shape": "layer { input_param { shape { dim: 9223372036854775807 dim: -1 } } }",
    "floats": "layer { loss_weight: [1., .5, 1e3, 1E-3, 2.5e+2, 3, 1f, 1e-3f, -0.25, -0] }",
    "no numbers": "layer { loss_weight: [inf, -inf, nan, infinity, INF, NaN, -Infinity] }",
    "overflow": "layer { loss_weight: [1e39, -1e39, 3.4028235e38, 1e-50] }",
    "enum name": "layer { pooling_param { pool: AVE } }",
    "enum number": "layer { pooling_param { pool: 1 } }",
    "fork's enum name": "layer { eltwise_param { operation: DIV } }",
    "booleans": "layer { propagate_down: [true, false, True, False, t, f, 1, 0] }",
    "V1": 'layers { name: "a" type: CONVOLUTION blobs_lr: 1 blobs_lr: 2 param: "w" }',
    "V0": 'layers { layer { name: "a" type: "conv" num_output: 3 } bottom: "x" top: "y" }',
    "weights": "layer { blobs { shape { dim: 2 } data: 0.5 data: [1, 2] double_data: 1e300 } }",
}


@pytest.mark.parametrize("name", AGREED)
def test_what_protobuf_accepts_is_read_alike(name):
    text = AGREED[name]
    net = prototxt.parse(text, "net.prototxt")
    assert rounded(net) == witness(text)
    assert net.unknown == []


REFUSED = {
    "stray closing": ("layer { }\n}", "2:1", "field's name"),
    "unclosed message": ("layer {\n  top: 'x'\n", "3:1", "'}' for line 1"),
    "wrong bracket": ("layer { relu_param { > }", "1:22", "'}' for line 1"),
    "no colon": ("layer {\n  name 'a'\n}", "2:8", "':' after 'name'"),
    "no colon before list": ("layer { loss_weight [1] }", "1:21", "':' after 'loss_weight'"),
    "no value": ("layer { name: }", "1:15", "quoted string for 'name'"),
    "message for scalar": ("layer { name { } }", "1:14", "quoted string for 'name'"),
    "scalar for message": ("layer { relu_param: 1 }", "1:21", "'{'"),
    "list for single": ("layer { name: ['a'] }", "1:15", "one value for 'name'"),
    "list without comma": ("layer { top: ['a' 'b' 1] }", "1:23", "',' or ']'"),
    "list with comma at end": ("layer { top: ['a',] }", "1:19", "quoted string"),
    "two separators": ("layer { name: 'a',; }", "1:19", "found ';'"),
    "given twice": ("layer {\n name: 'a'\n name: 'b'\n}", "3:2", "twice, first on line 2"),
    "message given twice": ("layer { relu_param { } relu_param { } }", "1:24", "twice"),
    "unquoted string": ("layer { type: CONVOLUTION }", "1:15", "'layers'"),
    "quoted enum": ("layers { type: 'Convolution' }", "1:16", "'layer'"),
    "unknown enum value": ("layer { pooling_param { pool: AVG } }", "1:31", "MAX, AVE"),
    "unknown V1 type": ("layers {\n  type: CONVOLUTON }", "2:9", "CONVOLUTION"),
    "unknown enum number": ("layer { pooling_param { pool: 3 } }", "1:31", "found '3'"),
    "number of our own": ("layer { pooling_param { pool: 100000 } }", "1:31", "found '100000'"),
    "word for integer": ("layer { top: 'x' concat_param { axis: one } }", "1:39", "integer"),
    "string for integer": ("layer { concat_param { axis: '1' } }", "1:30", "integer"),
    "fraction for integer": ("layer { concat_param { axis: 2.5 } }", "1:30", "integer"),
    "infinity for integer": ("layer { concat_param { axis: inf } }", "1:30", "integer"),
    "bad octal": ("layer { concat_param { axis: 08 } }", "1:30", "integer"),
    "bad hexadecimal": ("layer { concat_param { axis: 0x } }", "1:30", "without a space"),
    "negative size": ("layer { convolution_param { pad: -1 } }", "1:35", "from 0 to"),
    "too large": ("layer { concat_param { axis: 2147483648 } }", "1:30", "to 2147483647"),
    "number glued to name": ("layer { concat_param { axis: 1top } }", "1:30", "without a space"),
    "plus": ("layer { concat_param { axis: +1 } }", "1:30", "'+'"),
    "octal float": ("layer { loss_weight: 010 }", "1:22", "number for 'loss_weight'"),
    "hexadecimal float": ("layer { loss_weight: 0x1 }", "1:22", "number for 'loss_weight'"),
    "string for float": ("layer { loss_weight: 'inf' }", "1:22", "number for 'loss_weight'"),
    "two for boolean": ("layer { propagate_down: 2 }", "1:25", "true or false"),
    "word for boolean": ("layer { propagate_down: yes }", "1:25", "true or false"),
    "open string": ("layer {\n  name: 'a\n}", "2:9", "not closed"),
    "open string with escape": ('layer { name: "a\\"\n}', "1:15", "not closed"),
    "string over two lines": ('layer { name: "a\\\nb" }', "1:15", "not closed"),
    "string to the end": ("layer { name: 'a\\", "1:15", "not closed"),
    "unknown escape": (r'layer { name: "C:\data" }', "1:15", "backslash"),
    "half a surrogate": (r'layer { name: "\ud83d" }', "1:15", "escape"),
    "large octal escape": (r'layer { name: "\8" }', "1:15", "escape"),
    "field number": ("layer { 1: 2 }", "1:9", "field's name"),
    "extension": ("layer { [caffe.x]: 2 }", "1:9", "field's name"),
    "required field": ("layer {\n  clip_param { min: 0 }\n}", "2:3", "needs the field 'max'"),
    "typographic quotes": ("layer { name: \u201ca\u201d }", "1:15", "'\u201c'"),
    "control byte": ("layer { }" + " " * 5000 + "\0", "1:5010", r"'\x00'"),
    "unknown field's syntax": ("layer { mine { a 1 } }", "1:18", "':' after 'a'"),
    "unknown field's value": ("layer { mine: }", "1:15", "a value"),
    "nothing but comments": ("# no net\n", "1:1", "no layer"),
    "something else": ("item { name: 'none' }", "1:1", "no layer, but 'item'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_its_place(name):
    text, place, fragment = REFUSED[name]
    error = refused(text)
    assert error.where == "net.prototxt:" + place
    assert fragment in str(error)


@pytest.mark.parametrize(
    ("escapes", "text"),
    [
        (r"\?", "?"),
        (r"\X41", "A"),
        (r"\u00e9\U0001F600", "\xe9\N{GRINNING FACE}"),
        (r"\ud83d\ude00", "\N{GRINNING FACE}"),
        (r"\x41\xe9", "A\xe9"),
    ],
    ids=["question mark", "X", "unicode", "surrogate pair", "Latin-1"],
)
def test_escapes_that_not_every_protobuf_knows(escapes, text):
    assert layer(f'name: "{escapes}"').fields["name"] == text


def test_numbers_that_not_every_protobuf_knows():
    assert layer("concat_param { axis: - 2 }").document() == {"concat_param": {"axis": -2}}
    assert layer("loss_weight: 1.5F").document() == {"loss_weight": [1.5]}


@pytest.mark.parametrize(
    ("written", "value"),
    [("2.0", 2), ("2.", 2), ("1e1", 10), ("3f", 3), ("0x10", 16)],
)
def test_whole_numbers_in_any_form_are_integers(written, value):
    found = layer(f"convolution_param {{ pad: {written} }}").fields["convolution_param"]
    assert found.fields["pad"] == [value]
    assert type(found.fields["pad"][0]) is int


def test_floats_are_kept_as_written():
    found = layer("batch_norm_param { eps: 1e-5 }").document()
    assert found == {"batch_norm_param": {"eps": 1e-5}}


def test_what_float32_cannot_hold_is_infinite():
    assert layer("loss_weight: [1e39, -1e39]").fields["loss_weight"] == [math.inf, -math.inf]
    assert layer("blobs { double_data: 1e39 }").fields["blobs"][0].fields["double_data"] == [1e39]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'\xef\xbb\xbflayer { name: "a" }', "a"),
        (b'layer { name: "caf\xe9" }', "caf\xe9"),
        (b'layer { name: "caf\xc3\xa9" } # \xe9', "caf\xe9"),
        (b'# \xff\xfe\r\nlayer { name: "a" }', "a"),
    ],
    ids=["byte order mark", "Latin-1", "UTF-8 beside Latin-1", "Latin-1 comment"],
)
def test_bytes_that_protobuf_refuses(data, name):
    assert prototxt.parse(data, "net.prototxt").fields["layer"][0].fields["name"] == name


def test_lines_and_columns():
    net = prototxt.parse(
        b"""name: "x"  # a comment
layer {
  name: "a"
  bottom: "b" bottom: "c"
  convolution_param {

    pad: 1
    pad: 2
  }
}
  layer [ { name: "d" },
    < relu_param { } > ]
""",
        "dir/net.prototxt",
    )
    assert net.lines == {"name": 1, "layer": 2}
    first, second, third = net.fields["layer"]
    assert (first.line, first.column) == (2, 1)
    assert first.lines == {"name": 3, "bottom": 4, "convolution_param": 5}
    convolution = first.fields["convolution_param"]
    assert (convolution.type, convolution.line, convolution.column) == (
        "ConvolutionParameter",
        5,
        3,
    )
    assert convolution.lines == {"pad": 7}
    assert (second.line, second.column) == (11, 11)
    assert (third.line, third.column) == (12, 5)
    assert convolution.where() == "dir/net.prototxt:5"
    assert convolution.where("pad") == "dir/net.prototxt:7"
    assert convolution.where("stride") == "dir/net.prototxt:5"


def test_unknown_fields_are_kept_aside():
    net = prototxt.parse(
        """
mine: 1
layer { name: "a" }
layer {
  name: "b"
  pooling_param { pool: AVE foo: [1, -inf, "x" 'y', bar] kernel_size: 2 }
  their_param { pooling_param { pool: NONE } deep < deeper [ { }, { a: "}" } ] > }
}
layer [ { }, { relu_param { slope: 1 } } ]
""",
        "net.prototxt",
    )
    found = [(each.path, each.name, each.line, each.column) for each in net.unknown]
    assert found == [
        ("mine", "mine", 2, 1),
        ("layer[1].pooling_param.foo", "foo", 6, 29),
        ("layer[1].their_param", "their_param", 7, 3),
        ("layer[3].relu_param.slope", "slope", 9, 29),
    ]
    layers = net.fields["layer"]
    assert [len(each.unknown) for each in layers] == [0, 2, 0, 1]
    assert layers[1].document() == {"name": "b", "pooling_param": {"pool": "AVE", "kernel_size": 2}}


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net.prototxt", "layer { }")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\n<!DOCTYPE html>\n<html>", "web page"),
        (b"<html lang=en>", "web page"),
        (b'<?xml version="1.0"?>', "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (gzip.compress(b"layer { }"), "gzip"),
        (zipped(), "zip"),
        (b"\x89HDF\r\n\x1a\n\0\0\0", "HDF5"),
        (b"\n\x05LeNet\xa2\x06\x12\n\x04data", "weights go second"),
        ("layer { }".encode("utf-16"), "UTF-8"),
    ],
    ids=[
        "empty",
        "spaces",
        "mark",
        "HTML",
        "html",
        "XML",
        "LFS",
        "gzip",
        "zip",
        "HDF5",
        "caffemodel",
        "UTF-16",
    ],
)
def test_other_files_are_named(data, fragment):
    error = refused(data)
    assert error.where == "net.prototxt:1:1"
    assert fragment in str(error)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("net: 'train_val.prototxt'\nbase_lr: 0.01\n", "'train_val.prototxt'"),
        ("train_net: 'train.prototxt'\ntest_net: 'test.prototxt'\nmax_iter: 9", "'train.prototxt'"),
        ("base_lr: 0.01\nlr_policy: 'step'\nnet_param { layer { name: 'a' } }", "the net itself"),
    ],
    ids=["net", "train_net", "net inside"],
)
def test_a_solver_is_told_from_a_net(text, fragment):
    error = refused(text)
    assert "solver" in str(error)
    assert fragment in error.hint


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        prototxt.read(tmp_path / "net.prototxt")


def test_a_folder(tmp_path):
    with pytest.raises(UsageError, match="directory"):
        prototxt.read(tmp_path)


def test_too_large_a_file(tmp_path):
    path = tmp_path / "net.prototxt"
    with open(path, "wb") as file:
        file.write(b"# net\n")
        file.seek(64 * 1024 * 1024)
        file.write(b" ")
    with pytest.raises(MalformedModel, match="binary|more than 64 MB"):
        prototxt.read(path)
    with pytest.raises(MalformedModel, match="more than 64 MB"):
        prototxt.parse(b" " * (64 * 1024 * 1024 + 1), "net.prototxt")


@pytest.mark.parametrize("inner", ["a {", "a: <", "a ["], ids=["braces", "angles", "list"])
def test_nesting_is_bounded(inner):
    step = inner + "{" if inner.endswith("[") else inner
    closing = {"{": "}", "<": ">"}[step[-1]] + ("]" if inner.endswith("[") else "")
    deep = "layer { name: 'x' " + step * 99 + closing * 99 + "}"
    assert len(prototxt.parse(deep, "net.prototxt").unknown) == 1
    error = refused("layer { " + step * 100 + closing * 100 + "}")
    assert "nested more than 100 deep" in str(error)
    assert "nested more than 100 deep" in str(refused("layer { " + step * 100000))


def test_messages_side_by_side_are_not_nested():
    assert len(layer("param { } " * 300).fields["param"]) == 300


def test_the_number_of_fields_is_bounded():
    error = refused("layer { loss_weight: [" + "1," * 1000000 + "] }")
    assert "more than 1000000 fields" in str(error)


@pytest.mark.parametrize(
    "fields",
    ["name: 'a' top: 'b' top: 'c'", "top: ['a', 'b', 'c']", "mine { a: 1 b: 2 }"],
    ids=["fields", "list", "unknown"],
)
def test_what_counts_as_a_field(monkeypatch, fields):
    monkeypatch.setattr(prototxt, "MAX_FIELDS", 4)
    layer(fields)
    monkeypatch.setattr(prototxt, "MAX_FIELDS", 3)
    with pytest.raises(MalformedModel, match="more than 3 fields"):
        layer(fields)


def test_damaged_texts_are_read_or_refused():
    source = "\n".join(AGREED.values()).encode()
    rng = random.Random(7)
    outcomes = set()
    for _ in range(2000):
        data = bytearray(source)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.choice(
                [b"", b"{", b"}", b'"', b"\\", b"[", b"9"]
            )
        start = rng.randrange(len(data))
        piece = bytes(data[start : start + rng.randrange(400)])
        try:
            prototxt.parse(b"layer { " + piece, "net.prototxt")
            outcomes.add("read")
        except MalformedModel as error:
            assert error.where.startswith("net.prototxt:")
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    "text",
    [
        "layer { name: '" + "\\n" * MEGABYTE + "' }",
        "layer { name: '" + "\\n" * MEGABYTE,
        "layer { name: " + "'' " * MEGABYTE + "}",
        "layer { loss_weight: " + "1" * MEGABYTE + "x }",
        "layer { loss_weight: " + "1" * MEGABYTE + " }",
        "layer { concat_param { axis: " + "1" * MEGABYTE + " } }",
        "layer { concat_param { axis: 0x" + "1" * MEGABYTE + " } }",
        "layer { loss_weight: 0." + "0" * MEGABYTE + "e }",
        "layer { type: " + "A" * MEGABYTE + " }",
        "layers { type: " + "A" * MEGABYTE + " }",
        "layer { } #" + "#" * MEGABYTE,
        "layer { } " + "#\n" * MEGABYTE,
        "layer { " + "a{}" * (MEGABYTE // 4) + "}",
    ],
    ids=[
        "escapes",
        "open escapes",
        "strings",
        "digits",
        "long number",
        "long integer",
        "long hexadecimal",
        "fraction",
        "word",
        "enum",
        "comment",
        "comments",
        "unknown",
    ],
)
def test_time_grows_with_the_size_only(text):
    start = time.perf_counter()
    try:
        prototxt.parse(text, "net.prototxt")
    except MalformedModel as error:
        assert len(str(error)) < 500
    # About a second where it is slowest; anything quadratic takes minutes.
    assert time.perf_counter() - start < 20

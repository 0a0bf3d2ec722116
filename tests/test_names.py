"""Identifiers: whatever a model calls its parts, ours are plain, unique and no words of Python."""

from __future__ import annotations

import keyword
import re

import pytest

from stage_build.names import MAX_LENGTH, Namespace, class_name, identifier

PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)

HOSTILE = [
    "",
    " ",
    "_",
    "___",
    "/",
    ".",
    "..",
    "-",
    "0",
    "3x3",
    "_x",
    "__init__",
    "conv1/7x7_s2",
    "a b",
    "a:b",
    "f(x)",
    "a\nb",
    "a\0b",
    "a\tb",
    "x" * 1000,
    "é" * 1000,
    "_" * 1000,
    "x" * (MAX_LENGTH - 1) + "_y",
    "naïve café",
    "Ångström",
    "ﬁn",
    "²",
    "½",
    "Ⅷ",
    "٣",
    "变量",
    "😀",
    "a😀b",
    "\ud800",
    '"); import os #',
    "'''",
    '"""',
    "../../x",
    "C:\\x",
    "<script>",
    "{name}",
    "%s",
    "self",
    "None",
    "class",
    "match",
    "type",
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_every_name_becomes_a_plain_identifier(name):
    for made in (
        identifier(name),
        identifier(name, "layer"),
        Namespace().take(name),
        Namespace().take(name, "blob"),
        class_name(name),
    ):
        assert PLAIN.fullmatch(made)
        assert made.isidentifier()
        assert len(made) <= MAX_LENGTH + len("layer_") + len("_2")
    for made in (Namespace().take(name), class_name(name)):
        assert not keyword.iskeyword(made)
        assert not keyword.issoftkeyword(made)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv1", "conv1"),
        ("conv1/7x7_s2", "conv1_7x7_s2"),
        ("inception_3a/5x5_reduce", "inception_3a_5x5_reduce"),
        ("a b", "a_b"),
        ("a:b", "a_b"),
        ("f(x)", "f_x"),
        ("_x", "x"),
        ("x_", "x"),
        ("a__b", "a_b"),
        ("a/_/b", "a_b"),
        ("Café", "Cafe"),
        ("naïve", "naive"),
        ("ﬁn", "fin"),
        ("a😀b", "ab"),
        ("3x3", "x_3x3"),
        ("😀", "x"),
        ("", "x"),
        ("x" * 1000, "x" * MAX_LENGTH),
        # Cut where an underscore would be left at the end.
        ("x" * (MAX_LENGTH - 1) + "/y", "x" * (MAX_LENGTH - 1)),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_identifiers_stay_readable(name, expected):
    assert identifier(name) == expected


def test_the_fallback_names_what_has_no_name():
    assert identifier("", "layer") == "layer"
    assert identifier("1", "layer") == "layer_1"


@pytest.mark.parametrize("name", [*keyword.kwlist, *keyword.softkwlist])
def test_no_identifier_is_a_word_of_python(name):
    taken = Namespace().take(name)
    assert not keyword.iskeyword(taken)
    assert not keyword.issoftkeyword(taken)


@pytest.mark.parametrize("name", ["l", "O", "I"])
def test_no_identifier_looks_like_a_digit(name):
    assert Namespace().take(name) == f"{name}_2"
    assert Namespace().take(name.swapcase()) == name.swapcase()


def test_duplicates_are_numbered():
    space = Namespace()
    names = ["a/b", "a:b", "a_b", "a_b_2", "a b"]
    assert [space.take(name) for name in names] == ["a_b", "a_b_2", "a_b_3", "a_b_2_2", "a_b_4"]


def test_names_that_differ_in_case_alone_are_told_apart():
    space = Namespace()
    assert [space.take(name) for name in ("Conv", "conv", "CONV")] == ["Conv", "conv_2", "CONV_3"]


def test_long_names_with_one_beginning_are_told_apart():
    space = Namespace()
    taken = [space.take("x" * 1000 + str(i)) for i in range(20)]
    assert len({name.lower() for name in taken}) == 20


def test_all_hostile_names_together_are_told_apart():
    space = Namespace()
    taken = [space.take(name) for name in [*HOSTILE, *HOSTILE, *keyword.kwlist]]
    assert len({name.lower() for name in taken}) == len(taken)
    assert all(PLAIN.fullmatch(name) for name in taken)


def test_numbers_go_on_from_the_last():
    space = Namespace(["a_3"])
    names = ["a", "A", "a!", "a_4", "a?", "l", "L", "l"]
    expected = ["a", "A_2", "a_4", "a_4_2", "a_5", "l_2", "L", "l_3"]
    assert [space.take(name) for name in names] == expected


@pytest.mark.parametrize("name", ["self", "Self", "SELF"])
def test_reserved_names_are_kept_in_any_case(name):
    assert Namespace(["self"]).take(name) == f"{name}_2"
    assert Namespace(["SELF"]).take(name) == f"{name}_2"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LeNet", "LeNet"),
        ("VGG_ILSVRC_16_layers", "VGGILSVRC16Layers"),
        ("squeezenet v1.1", "SqueezenetV11"),
        ("resnet-50", "Resnet50"),
        ("3d net", "Net3dNet"),
        ("", "Net"),
        ("😀", "Net"),
        ("class", "Class"),
        ("none", "NoneNet"),
        ("True", "TrueNet"),
    ],
)
def test_class_names(name, expected):
    assert class_name(name) == expected


@pytest.mark.parametrize("name", ["Network", "network", "net/work", "base network", "BaseNetwork"])
def test_a_class_name_never_hides_what_it_derives_from(name):
    made = class_name(name)
    assert made not in ("Network", "BaseNetwork")
    assert PLAIN.fullmatch(made)

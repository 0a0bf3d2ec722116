"""Which fork's meaning a layer is given: what rules one out, what is told, what must be chosen."""

from __future__ import annotations

import pytest

from schemas.errors import UnsupportedModel, UsageError
from schemas.graph import Layer
from schemas.layers import registry
from schemas.layers.registry import Meaning, layer
from stage_extract import dialects, network, prototxt, upgrade
from tests import prototxts


class Same(Meaning):
    def shapes(self, bottoms, tops):
        return [bottoms[0]] * tops


@pytest.fixture
def twins():
    """A type of four meanings: BVLC's, and three forks'."""
    registry.registered()
    with registry.extended():

        @layer("Twin", message="norm_param", harmless={"bias_filler": "replaced by the weights"})
        class Ours(Same):
            eps: float = 0.1
            across_spatial: str = "A"
            choices = {"across_spatial": ("A", "B")}

            @classmethod
            def fits_blobs(cls, shapes):
                return len(shapes) == 3

        @layer("Twin", message="norm_param", dialect="left")
        class Left(Same):
            eps: float = 0.1
            across_spatial: str = "C"
            left: bool = False

            @classmethod
            def fits_blobs(cls, shapes):
                return len(shapes) == 5

        @layer("Twin", message="other_param", dialect="right")
        class Right(Same):
            bottom_count = (2, 2)

        yield


def settled(fields, asked=(), stored=None, bottoms=1):
    """(dialect, what is ambiguous, notes) of one layer."""
    of = Layer("twin", "Twin", ("a", "b")[:bottoms], ("out",), fields)
    notes = []
    shapes = {} if stored is None else {"twin": [(3,)] * stored}
    found = dialects.settle([of], asked, lambda: shapes, notes)
    return found.layers[0].dialect, found.ambiguous.get("twin", ""), notes


@pytest.mark.parametrize(
    "fields, more, dialect, why",
    [
        ({}, {}, "", None),
        ({"norm_param": {"eps": 0.5, "bias_filler": {}}}, {}, "", None),
        ({"norm_param": {"left": True}}, {}, "left", "not bvlc: field norm_param.left"),
        ({"norm_param": {"across_spatial": "C"}}, {}, "left", "norm_param.across_spatial is C"),
        ({"other_param": {}}, {"bottoms": 2}, "right", "not bvlc: message other_param, 2 bottoms"),
        ({"other_param": {}}, {"bottoms": 1, "stored": 3}, "", None),
        ({"other_param": {}}, {"bottoms": 1}, "right", "not bvlc: message other_param, no stored"),
        (
            {"norm_param": dict.fromkeys("abcde", 1), "other_param": {}},
            {"bottoms": 2},
            "right",
            "not left: field norm_param.a, field norm_param.b, field norm_param.c, and 4 more",
        ),
        ({}, {"stored": 3}, "", None),
        ({}, {"stored": 5}, "left", "not bvlc: 5 stored blobs"),
        ({}, {"stored": 4}, "", None),
        ({}, {"asked": ["left"]}, "left", "asked for"),
        ({"norm_param": {"left": True}}, {"asked": ["bvlc"]}, "", None),
        ({}, {"asked": ["flownet2"]}, "", None),
    ],
    ids=lambda value: str(value)[:60].replace("'", "") if isinstance(value, dict) else None,
)
def test_a_layer_is_given_the_meaning_that_fits(twins, fields, more, dialect, why):
    registry.layer("Other", dialect="flownet2")(type("Other", (Same,), {}))
    found, ambiguous, notes = settled(fields, **more)
    assert found == dialect
    assert ambiguous == ""
    if why is None:
        assert notes == []
    else:
        assert notes[0].startswith(f"dialect {dialect}: Twin 'twin' (")
        assert why in notes[0]


def test_the_weights_are_opened_only_where_the_text_does_not_tell(twins):
    def never():
        raise AssertionError("the weights were opened")

    told = Layer("t", "Twin", ("a",), ("out",), {"norm_param": {"left": True}})
    sole = Layer("r", "ReLU", ("a",), ("out",))
    assert dialects.settle([told, sole], (), never, []).layers[0].dialect == "left"


def test_meanings_that_cannot_be_told_apart_must_be_chosen(twins):
    @layer("Twin", dialect="lookalike", message="norm_param")
    class Lookalike(Same):
        eps: float = 0.1
        contested = True

    _, ambiguous, notes = settled({}, stored=3)
    assert ambiguous == (
        "layer type 'Twin' means something else in bvlc, lookalike, and nothing tells which is "
        "meant (choose with --dialect bvlc or lookalike)"
    )
    assert notes == []
    assert settled({}, asked=["lookalike"])[:2] == ("lookalike", "")
    assert settled({}, asked=["bvlc"])[:2] == ("", "")


@pytest.mark.parametrize(
    "beside, dialect", [("ReLU", "usual"), ("OnlyInRare", "rare")], ids=["alone", "in-company"]
)
def test_among_forks_the_net_s_other_layers_tell(twins, beside, dialect):
    registry.layer("Pair", dialect="usual")(type("Usual", (Same,), {}))
    registry.layer("Pair", dialect="rare")(type("Rare", (Same,), {"contested": True}))
    registry.layer("OnlyInRare", dialect="rare")(type("OnlyInRare", (Same,), {}))
    notes = []
    layers = [Layer("x", beside, ("a",), ("b",)), Layer("y", "Pair", ("b",), ("c",))]
    assert dialects.settle(layers, (), dict, notes).layers[1].dialect == dialect
    assert notes[-1].startswith(f"dialect {dialect}: Pair 'y' (not ")


def test_the_types_of_one_fork_are_named_in_one_note(twins):
    for name in ("OneOfIt", "AnotherOfIt"):
        registry.layer(name, dialect="fork")(type(name, (Same,), {}))
    layers = [Layer(f"l{i}", t, ("a",), ("b",)) for i, t in enumerate(("OneOfIt", "AnotherOfIt"))]
    notes = []
    assert {la.dialect for la in dialects.settle(layers * 2, (), dict, notes).layers} == {"fork"}
    assert notes == ["dialect fork: AnotherOfIt, OneOfIt (no other dialect has the type)"]


def test_a_dialect_that_there_is_not_is_a_wrong_option(twins):
    with pytest.raises(UsageError, match="no dialect 'lefft' is known") as caught:
        settled({}, asked=["lefft"])
    assert "left" in caught.value.hint and "bvlc" in caught.value.hint


def test_a_python_layer_goes_by_its_module_and_layer():
    of = Layer("p", "Python", ("a",), ("b",), {"python_param": {"module": "m.n", "layer": "L"}})
    assert dialects.settle([of], (), dict, []).layers[0].dialect == "m.n.L"


def test_the_weights_are_not_opened_for_a_net_that_is_refused_anyway():
    """BatchNorm's dialect would be told by its blobs."""

    def never():
        raise AssertionError("the weights were opened")

    message = upgrade.upgrade(
        prototxt.parse(
            "\n".join(
                (
                    prototxts.inputs(data=(2, 3, 5, 7)),
                    prototxts.layer("BatchNorm", "data", "norm"),
                    prototxts.layer("NoSuchType", "norm", "a"),
                    prototxts.layer("NorThis", "a", "b"),
                )
            ),
            "net.prototxt",
        )
    )
    with pytest.raises(UnsupportedModel) as caught:
        network.build(message, network.Options(), never)
    assert "layer type 'NoSuchType' is not supported: 'a' (line 3)" in str(caught.value)
    assert "layer type 'NorThis' is not supported: 'b' (line 4)" in str(caught.value)
    assert "norm" not in str(caught.value)
    with pytest.raises(AssertionError, match="opened"):
        network.build(message, network.Options(outputs=("norm",)), never)


CROPPED = (
    prototxts.inputs(data=(2, 3, 5, 7)),
    prototxts.layer("Convolution", "data", "conv", "convolution_param { num_output: 4 PAD }"),
    prototxts.layer("Crop", "conv data", "cropped"),
)


def cropped(pad):
    return [line.replace("PAD", pad) for line in CROPPED]


def test_what_must_be_chosen_is_told_with_the_rest():
    """Pixel x of the image is x + 2 - 1 of the convolution: the old FCN branch's Crop starts at 1,
    BVLC's at 0."""
    text = [*cropped("kernel_size: 3 pad: 2"), prototxts.layer("Crop", "conv data", "twice")]
    with pytest.raises(UnsupportedModel) as caught:
        prototxts.build(*text)
    assert (
        "layer 'cropped' (Crop, line 3), layer 'twice' (Crop, line 4): layer type 'Crop' means "
        "something else in bvlc, fcn-future, and nothing tells which is meant (choose with "
        "--dialect bvlc or fcn-future)"
    ) in str(caught.value)
    assert "layer 'cropped' (Crop, line 3)" in str(caught.value)
    starts = {
        dialect: prototxts.build(*text, dialects=(dialect,)).net.layers[1].fields
        for dialect in ("bvlc", "fcn-future")
    }
    assert starts == {"bvlc": {}, "fcn-future": {"crop_param": {"aligned": [1, 1]}}}


@pytest.mark.parametrize(
    "pad", ["kernel_size: 1", "kernel_size: 2 pad: 1"], ids=["aligned-at-0", "cannot-be-aligned"]
)
def test_what_means_the_same_need_not_be_chosen(pad):
    built = prototxts.build(*cropped(pad))
    assert built.net.layers[1].dialect == ""
    assert built.net.blobs["cropped"].shape == (2, 4, 5, 7)

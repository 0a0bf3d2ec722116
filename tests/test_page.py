"""report.html as text: what it says, what it may load, and how the net is laid out."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html.parser
import json
import math
import re

import numpy as np
import pytest

from schemas.preprocessing import Preprocessing
from stage_build import verify
from stage_build.page import charts, layout
from stage_build.page.facts import Facts, LayerFacts, gather, relative, shortened, state
from tests import pages
from tests.nets import inputs, layer, net


class Document(html.parser.HTMLParser):
    """The elements of a page, its text, and what its scripts and styles hold."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.attributes, self.words, self.held = [], [], [], []
        self.open = []
        self.feed(text)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += attributes
        if tag in ("script", "style"):
            self.open.append(tag)
            self.held.append("")

    def handle_endtag(self, tag):
        if self.open and tag == self.open[-1]:
            self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.held[-1] += data
        else:
            self.words.append(data)

    @property
    def data(self):
        return json.loads(self.held[1])


def document(folder, content, report=None):
    return Document(pages.page(folder, content, report).read_text("utf-8"))


@pytest.fixture(scope="module")
def block():
    return pages.block()


@pytest.fixture(scope="module")
def verified(block, tmp_path_factory):
    return document(tmp_path_factory.mktemp("page"), block)


# The verdict


def test_it_says_that_it_is_verified_and_how(verified, block):
    assert "Verified" in verified.text
    assert "Not verified" not in verified.text
    count = len(block.net.blobs)
    assert f"Blobs compared {count} of {count}, by the TensorFlow class" in verified.text
    assert "Tolerance 1.0e-04 of a blob's largest value" in verified.text
    assert "Any batch size Proven batch 3 gives what batch 1 gave, to 1.0e-07" in verified.text
    assert "TensorFlow class weights.npz ✓ equal 1.0e-07" in verified.text
    assert "SavedModel saved_model ✓ equal 1.0e-07" in verified.text


def test_it_gives_the_size_of_each_artefact(block, tmp_path):
    (tmp_path / "weights.npz").write_bytes(bytes(1_230_000))
    (tmp_path / "saved_model" / "variables").mkdir(parents=True)
    (tmp_path / "saved_model" / "variables" / "data").write_bytes(bytes(4000))
    text = document(tmp_path, block).text
    assert re.search(r"weights\.npz ✓ equal 1\.0e-07 1\.23 MB", text)
    assert re.search(r"saved_model ✓ equal 1\.0e-07 4 kB", text)


def test_a_failure_is_told_first(block, tmp_path):
    errors = {key: 0.3 for key in ("sum", "pool", "score", "prob")}
    culprit = {"layer": "sum", "type": "Eltwise", "line": 9, "cause": "the bottoms are swapped"}
    report = pages.checked(block, errors, culprit=culprit)
    text = document(tmp_path, block, report).text
    assert "Not verified" in text
    told = text[: text.index("The net ")]
    assert "sum of the class, against the recorded reference:" in told
    assert "relative error 3.0e-01, where 1.0e-04 is the tolerance." in told
    assert "Written by layer sum (Eltwise, line " in told
    assert "Layer to blame sum (Eltwise, line 9): fed the reference's own bottoms" in told
    assert "Likely cause the bottoms are swapped" in told
    assert "✕ differs" in told


def test_a_failure_of_one_artefact_colours_its_blob(block, tmp_path):
    report = pages.checked(block)
    bad = verify.Outcome((verify.Compared("prob", (1, 7), 1.0, 1.0, 2.0, False),)).document()
    report["artefacts"]["saved_model"].update(bad)
    found = {one["name"]: one["state"] for one in document(tmp_path, block, report).data["layers"]}
    assert found["prob"] == "failed"
    assert found["score"] == "e0"


def test_weights_that_no_file_gave_are_marked(block, tmp_path):
    content = dataclasses.replace(block, filled=("left/0", "left/1"))
    text = document(tmp_path, content).text
    assert f"2 of {len(block.weights)} parameter blobs are in no weights file" in text
    assert re.search(r"left\s+untrained", text)
    assert not re.search(r"right\s+untrained", text)


def test_notes_and_what_was_not_compared_are_told(block, tmp_path):
    content = dataclasses.replace(block, notes=("the first note",))
    report = pages.checked(content, skipped={"left": "no output is computed from it"})
    text = document(tmp_path, content, report).text
    assert "the first note" in text
    assert "1 blob was not compared" in text
    assert "left : no output is computed from it" in text


@pytest.mark.parametrize(
    ("error", "passed", "named"),
    [
        (0.0, True, "e0"),
        (1e-7, True, "e0"),
        (1e-6, True, "e1"),
        (1e-5, True, "e2"),
        (1e-4, True, "e3"),
        (2e-4, True, "grown"),
        (2e-4, False, "failed"),
        (None, False, "failed"),
    ],
)
def test_states_go_by_the_tolerance(error, passed, named):
    assert state({"max_error": error, "magnitude": 1.0, "passed": passed}, 1e-4) == named


@pytest.mark.parametrize(
    ("error", "magnitude", "expected"),
    [(1.0, 4.0, 0.25), (1.0, 0.0, 1.0), (None, 4.0, None), (1e300, 1e-300, None)],
)
def test_an_error_is_relative_to_the_magnitude(error, magnitude, expected):
    assert relative({"max_error": error, "magnitude": magnitude}) == expected


# What it may do


def test_it_loads_nothing(verified, tmp_path, block):
    text = pages.page(tmp_path, block).read_text("utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|\bsrc=|\bsrcset=|\bstyle=", text)
    assert {url for url in re.findall(r"url\(([^)]*)\)", text)} == {"#tip", "#inside", "#hatch"}
    links = [value for name, value in verified.attributes if name == "href"]
    assert links
    assert all(link.startswith("#") for link in links)
    assert not {"link", "img", "iframe", "object", "form", "base"} & set(verified.elements)


def test_its_policy_allows_its_own_style_and_script_alone(verified):
    contents = [value for name, value in verified.attributes if name == "content"]
    (policy,) = [value for value in contents if value.startswith("default-src 'none'")]
    style, _, script = verified.held

    def digest(text):
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    assert f"style-src 'sha256-{digest(style)}'" in policy
    assert f"script-src 'sha256-{digest(script)}'" in policy
    assert "unsafe" not in policy


def test_equal_input_gives_equal_bytes(block, tmp_path):
    first = pages.page(tmp_path / "a", block).read_bytes()
    assert pages.page(tmp_path / "b", pages.block()).read_bytes() == first


HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "</style><script>alert(1)</script>",
    "-->{{ 7 * 7 }}{% raw %}",
    '"\' onmouseover="alert(1)',
    "&lt;&amp;&#39;",
    "\u202egnp.exe",
    "\u2028\u2029",
    "\x1b[31m",
    "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET}",
    "x" * 10_000,
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_are_text(name, tmp_path):
    content = net(
        inputs(data=(1, 2, 3, 4)),
        layer("ReLU", "data", [name], name=name),
        name=name,
    )
    content = dataclasses.replace(
        content,
        notes=(name,),
        labels=(name[:1000],) if name.isprintable() else (),
        images={"data": Preprocessing("none", channels="gray", unknown=(name,))},
    )
    ok = document(tmp_path / "ok", content)
    (named,) = [one for one in ok.data["layers"] if one["type"] == "ReLU"]
    assert named["name"] == name
    failed = document(tmp_path / "failed", content, pages.checked(content, {name: 0.5}))
    for found in (ok, failed):
        assert found.elements.count("script") == 2
        assert found.elements.count("style") == 1
        assert "img" not in found.elements
        assert not [key for key, _ in found.attributes if key.startswith("on")]
        assert shortened(name, 120).strip() in " ".join(found.words)
    assert "49" not in ok.words


def test_half_a_character_does_not_stop_it(block, tmp_path):
    content = dataclasses.replace(block, notes=("half \ud83d of one",))
    assert "half ? of one" in document(tmp_path, content).text


def test_a_long_name_is_not_written_everywhere(tmp_path):
    name = "n" * 10_000
    content = net(inputs(data=(1, 2, 3, 4)), layer("ReLU", "data", [name], name=name))
    assert pages.page(tmp_path, content).read_text("utf-8").count(name) <= 4


# The layers


def test_layers_have_their_facts(verified, block):
    found = {one["name"]: one for one in verified.data["layers"]}
    right = found["right"]
    assert right["type"] == "Convolution"
    assert right["bottoms"] == [["stem", "1 × 5 × 8 × 9"]]
    assert right["weights"] == [["right/0", "5 × 5 × 3 × 3", False], ["right/1", "5", False]]
    assert right["count"] == 5 * 5 * 9 + 5
    assert right["macs"] == 5 * 8 * 9 * 5 * 9
    assert right["code"] == "x = self.convolution(x)"
    assert ["kernel_size", "3"] in right["parameters"]
    assert right["line"] == next(one.line for one in block.net.layers if one.name == "right")
    assert found["prob"]["blobs"][0]["compared"][0] == ["class", "1.0e-07", "e0", ""]
    assert [one[0] for one in found["prob"]["blobs"][0]["compared"]] == [
        "class",
        "saved_model",
        "class at batch 3",
    ]


def test_shared_weights_count_once(tmp_path):
    shared = 'param { name: "w" } inner_product_param { num_output: 4 bias_term: false }'
    content = net(
        inputs(data=(1, 4)),
        layer("InnerProduct", "data", "a", shared),
        layer("InnerProduct", "a", "b", shared),
    )
    facts = gather(content, pages.checked(content), {})
    assert [one.parameter_count for one in facts.layers] == [0, 16, 16]
    assert facts.parameter_count == 16
    assert facts.macs == 32


# Preprocessing


def test_unknown_preprocessing_is_said(verified):
    assert "Unknown: neither the model nor whoever converted it said" in verified.text
    assert "No names of classes are known." in verified.text


def test_preprocessing_is_told(block, tmp_path):
    how = Preprocessing("warp", (12, 13), (8, 9), "bgr", 0.5, ("the order of the channels",))
    content = dataclasses.replace(
        block,
        images={"data": how},
        means={"data": np.array([104, 117, 123.5], np.float32)},
        labels=("cat", "dog"),
        preprocessing={"data": {"crop_size": 8}},
    )
    text = document(tmp_path, content).text
    for said in (
        "Resize to 12 × 13, whatever the image's shape",
        "Crop the centre, 8 × 9",
        "Channels BGR",
        "Mean 104, 117, 123.5, a value for each channel, subtracted after the crop",
        "Scale 0.5, after the mean",
        "Not known, and assumed the order of the channels",
        "crop_size: 8",
        "2 class names cat dog",
    ):
        assert said in text


def test_a_mean_image_is_told_by_its_channels(block, tmp_path):
    mean = np.stack([np.full((12, 13), value, np.float32) for value in (1, 2, 3)])
    text = document(tmp_path, dataclasses.replace(block, means={"data": mean})).text
    assert "an image of 3 × 12 × 13, whose channels are 1, 2, 3 on average" in text


# Provenance


def test_sources_versions_and_costs_are_told(verified, block):
    (source,) = block.sources
    for said in (source.sha256, "net.prototxt", "python 3.11.7", "build 1.5 s", "1.05 MB"):
        assert said in verified.text
    assert "from random inputs of seed 7" in verified.text


# The picture


def of_chain(count, more=()):
    """Facts of layers that each read the one before, and `more` (reader, read)."""
    layers = [LayerFacts("0", "Input", 0, (), ("0",))]
    for number in range(1, count):
        read = (number - 1, *(start for end, start in more if end == number))
        layers.append(
            LayerFacts(str(number), "X", 0, tuple(map(str, read)), (str(number),), macs=1)
        )
    shapes = {str(number): (1,) for number in range(count)}
    return Facts(tuple(layers), shapes, {}, "", 0)


def overlapping(picture):
    """Pairs of boxes that share a place."""
    wide, high = layout.BOX
    boxes = picture.boxes
    return [
        (a, b)
        for place, a in enumerate(boxes)
        for b in boxes[place + 1 :]
        if abs(a.x - b.x) < wide and abs(a.y - b.y) < high
    ]


def ends(line):
    """Where a path begins and ends."""
    x, y = map(float, re.match(r"M(\S+) ([-\d.]+)", line.path).groups())
    start = (x, y)
    for command, given in re.findall(r"([VHC])([-\d. ]+)", line.path):
        numbers = [float(number) for number in given.split()]
        if command == "V":
            y = numbers[0]
        elif command == "H":
            x = numbers[0]
        else:
            x, y = numbers[-2:]
    return start, (x, y)


# Nets with what makes a layout hard: columns, long lines, boxes side by side.
NETS = {
    "one": of_chain(1),
    "chain": of_chain(150),
    "residual": of_chain(150, [(place + 3, place) for place in range(1, 140, 3)]),
    "u": of_chain(60, [(59 - place, place) for place in range(1, 25, 3)]),
    "hub": of_chain(100, [(place, 0) for place in range(2, 100)]),
}


def inception(blocks):
    """Four branches side by side, again and again."""
    layers = [LayerFacts("b", "Input", 0, (), ("b",))]
    last = "b"
    for number in range(blocks):
        kept = []
        for branch, depth in enumerate((1, 2, 2, 2)):
            read = last
            for step in range(depth):
                name = f"{number}/{branch}/{step}"
                layers.append(LayerFacts(name, "X", 0, (read,), (name,), macs=1))
                read = name
            kept.append(read)
        last = f"{number}"
        layers.append(LayerFacts(last, "Concat", 0, tuple(kept), (last,), macs=1))
    shapes = {key: (1,) for one in layers for key in one.tops}
    return Facts(tuple(layers), shapes, {}, "", 0)


NETS["inception"] = inception(9)


@pytest.mark.parametrize("name", NETS)
def test_boxes_stand_apart_and_inside(name):
    picture = layout.draw(NETS[name], ())
    assert overlapping(picture) == []
    assert all(0 <= box.x <= picture.width - layout.BOX[0] for box in picture.boxes)
    assert all(0 <= box.y <= picture.height - layout.BOX[1] for box in picture.boxes)
    assert sorted(i for box in picture.boxes for i in box.layers) == list(
        range(len(NETS[name].layers))
    )


@pytest.mark.parametrize("name", NETS)
def test_every_line_goes_from_a_box_or_its_trunk_to_a_box(name):
    picture, wide, high = layout.draw(NETS[name], ()), *layout.BOX
    writer = {key: i for i, one in enumerate(NETS[name].layers) for key in one.tops}
    expected = {(writer[key], i) for i, one in enumerate(NETS[name].layers) for key in one.bottoms}
    arriving = [line for line in picture.lines if line.end is not None]
    assert {(line.start, line.end) for line in arriving} == expected
    trunks = {line.start: ends(line)[1] for line in picture.lines if line.end is None}
    for line in arriving:
        start, end = ends(line)
        box = picture.boxes[line.end]
        assert end == pytest.approx((box.x + wide / 2, box.y), abs=1)
        left = picture.boxes[line.start]
        foot = (left.x + wide / 2, left.y + high)
        assert start == pytest.approx(foot, abs=1) or line.start in trunks


def test_a_long_net_is_set_in_columns_of_a_screens_shape():
    picture = layout.draw(NETS["chain"], ())
    assert len({box.x for box in picture.boxes}) >= 5
    assert 0.7 < picture.width / picture.height < 2.7


def test_a_short_net_is_one_column():
    assert len({box.x for box in layout.draw(of_chain(8), ()).boxes}) == 1


def test_lines_alone_are_drawn_close_together():
    skips = [(99 - place, place) for place in range(1, 49)]
    assert layout.draw(of_chain(100, skips), ()).width < 100 * 99


def test_too_many_long_lines_are_drawn_straight(monkeypatch):
    monkeypatch.setattr(layout, "MAX_CROSSED", 10)
    picture = layout.draw(NETS["hub"], ())
    assert overlapping(picture) == []
    assert 0 not in {line.start for line in picture.lines if line.end is None}
    assert len([line for line in picture.lines if line.start == 0]) == 99


def test_what_works_value_by_value_joins_its_producer(block):
    facts = gather(block, pages.checked(block), {})
    named = [
        [facts.layers[i].name for i in group] for group in layout.together(facts, block.net.outputs)
    ]
    assert named == [
        ["data"],
        ["stem", "stem_bn", "stem_scale", "stem_relu"],
        ["left"],
        ["right", "right_relu"],
        ["sum"],
        ["pool"],
        ["score"],
        ["prob"],
    ]


# The charts


def test_a_tolerance_of_nothing_has_a_place_on_the_axis():
    assert charts.dots([(0.0, "e0"), (1e-7, "e1")], 0.0).paths


def test_dots_stand_by_their_errors():
    made = charts.dots([(1e-5, "e2"), (1e-4, "e3"), (1e-3, "grown")], 1e-4)
    heights = {name: float(path.split()[1][:-2]) for name, path in made.paths.items()}
    assert heights["e3"] == pytest.approx(made.tolerance, abs=0.1)
    assert heights["e2"] - heights["e3"] == pytest.approx(heights["e3"] - heights["grown"], abs=0.2)
    assert heights["e2"] > heights["e3"] > heights["grown"]


@pytest.mark.parametrize("error", [0.0, 1e-300, 1e300, None, math.inf])
def test_every_dot_is_inside(error):
    made = charts.dots([(error, "e0"), (1e-5, "e1")], 1e-4)
    heights = [float(path.split()[1][:-2]) for path in made.paths.values()]
    assert all(0 < height < charts.HEIGHT for height in heights)
    assert all(0 < tick.y < charts.HEIGHT for tick in made.ticks)


def test_bars_stand_by_their_values():
    made = charts.bars([0, 5, 10])
    assert made.most == 10
    tops = [float(top) for top in re.findall(r"V([\d.]+)h", made.path)]
    assert tops == [charts.BARS - (charts.BARS - charts.PAD) / 2, charts.PAD]


def test_a_net_without_weights_has_charts(tmp_path):
    content = net(inputs(data=(1, 2, 3, 4)), layer("ReLU", "data", "out"))
    assert "Parameters 0" in document(tmp_path, content).text

"""The layers of regions of interest, by hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from tests.meanings import close, infer, run, values


def regions(*boxes):
    return np.array(boxes, np.float32)


def pool(param, image, *boxes):
    (top,) = run("ROIPooling", param, [image, regions(*boxes)], dialect="faster-rcnn")
    return top


IMAGE = values((1, 1, 4, 6))


def test_roi_pooling():
    """roi_pooling_layer.cpp: half of (2, 1, 9, 6), rounded away from zero, is (1, 1, 5, 3): 5 x 3.
    Rows in steps of 1.5: 1 + [0, 2) and 1 + [1, 3); columns in steps of 2.5: 1 + [0, 3) and
    1 + [2, 5)."""
    top = pool(dict(pooled_h=2, pooled_w=2, spatial_scale=0.5), IMAGE, (0, 2, 1, 9, 6))
    close(top, [[[[2 * 6 + 3, 2 * 6 + 5], [3 * 6 + 3, 3 * 6 + 5]]]])


def test_roi_pooling_beside_the_image_is_0():
    """Rows 3 to 4 of 4: the second row of bins, 4 to 5, has no pixels. All of the second box is
    outside."""
    image = -1 - IMAGE
    top = pool(dict(pooled_h=2, pooled_w=1), image, (0, 1, 3, 1, 4), (0, 9, 9, 12, 12))
    close(top[:, 0, :, 0], [[-1 - 19, 0], [0, 0]])


def test_roi_pooling_of_small_and_reversed_boxes():
    """A size is at least 1: each bin of a pixel is that pixel, rounded outwards."""
    param = dict(pooled_h=2, pooled_w=3)
    top = pool(param, IMAGE, (0, 4, 2, 4, 2), (0, 4, 2, 1, 0))
    close(top, np.full((2, 1, 2, 3), 16))


def test_roi_pooling_takes_the_boxes_image():
    """3 is not there, nor is -1: the nearest is."""
    image = values((2, 2, 1, 1), 1, 2, 3, 4)
    boxes = [(number, 0, 0, 0, 0) for number in (0, 1, 3, -1)]
    top = pool(dict(pooled_h=1, pooled_w=1), image, *boxes)
    close(top.reshape(4, 2), [[1, 2], [3, 4], [3, 4], [1, 2]])


def test_boxes_may_have_four_axes():
    param = dict(pooled_h=2, pooled_w=2)
    box = regions((0, 0, 0, 5, 3))
    (two,) = run("ROIPooling", param, [IMAGE, box], dialect="faster-rcnn")
    (four,) = run("ROIPooling", param, [IMAGE, box.reshape(1, 5, 1, 1)], dialect="faster-rcnn")
    close(two, [[[[8, 11], [20, 23]]]])
    close(four, two)


# Channel c is 100 * c + the place.
MAPS = (values((1, 4, 4, 4)) % 16) + 100 * np.arange(4, dtype=np.float32)[None, :, None, None]


def position_sensitive(type_, param, dialect, image, *boxes):
    (top,) = run(type_, param, [image, regions(*boxes)], dialect=dialect)
    return top


def psroi_pool(param, image, *boxes):
    return position_sensitive("PSROIPooling", param, "r-fcn", image, *boxes)


def test_psroi_pooling():
    """psroi_pooling_layer.cpp: (0, 0) to (3 + 1, 3 + 1), bins of 2 x 2; bin (i, j) has channel
    2 * i + j: (0 + 1 + 4 + 5) / 4, 100 + (2 + 3 + 6 + 7) / 4, ..."""
    param = dict(spatial_scale=1, output_dim=1, group_size=2)
    close(psroi_pool(param, MAPS, (0, 0, 0, 3, 3)), [[[[2.5, 104.5], [210.5, 312.5]]]])


def test_psroi_pooling_rounds_before_it_scales():
    """(0.5, 1.4) to (2.4, 1.6) are rounded to (1, 1) to (2, 2); half of (1, 1) to (3, 3) is 0.5 to
    1.5; bins of 0.5: rows and columns [0, 1) and [1, 2)."""
    param = dict(spatial_scale=0.5, output_dim=1, group_size=2)
    close(psroi_pool(param, MAPS, (0, 0.5, 1.4, 2.4, 1.6)), [[[[0, 101], [204, 305]]]])


def test_psroi_pooling_of_small_and_absent_boxes():
    """(3, 3) to (1 + 1, 1 + 1) is made 0.1 wide: 3 to 3.1 is pixel (3, 3). (8, 8) has none."""
    param = dict(spatial_scale=1, output_dim=4, group_size=1)
    top = psroi_pool(param, MAPS, (0, 3, 3, 1, 1), (0, 8, 8, 9, 9))
    close(top.reshape(2, 4), [[15, 115, 215, 315], [0] * 4])


def test_psroi_channels():
    """Output d, bin (i, j) has channel (d * 2 + i) * 2 + j, of image 1."""
    image = np.zeros((2, 8, 1, 1), np.float32)
    image[1, :, 0, 0] = np.arange(8)
    param = dict(spatial_scale=1, output_dim=2, group_size=2)
    for type_, dialect in (("PSROIPooling", "r-fcn"), ("PSROIAlign", "makefile-frcnn")):
        box = (1, 0, 0, 0, 0)
        top = position_sensitive(type_, param, dialect, image, box)
        if type_ == "PSROIPooling":
            close(top, np.arange(8).reshape(1, 2, 2, 2))
        else:
            # A bin ends at pixel 0 of 1, where it starts.
            close(top, np.zeros((1, 2, 2, 2)))


def psroi_align(param, image, *boxes):
    given = dict(spatial_scale=1, output_dim=1, group_size=1)
    return position_sensitive("PSROIAlign", dict(given, **param), "makefile-frcnn", image, *boxes)


# x + 4 * y, which linear interpolation keeps.
PLANE = values((1, 1, 4, 4))


def test_psroi_align():
    """psroi_align_layer.cpp: (0, 0) to (2, 2), samples at 2 / 3 and 4 / 3: about (1, 1)."""
    close(psroi_align({}, PLANE, (0, 0, 0, 1, 1)), [[[[5]]]])
    close(psroi_align(dict(sample_num=1), PLANE, (0, 0, 0, 1, 1)), [[[[5]]]])


def test_psroi_align_scales_without_rounding():
    """A quarter of (1, 3) to (4 + 1, 6 + 1) is (0.25, 0.75) to (1.25, 1.75), the middle of which is
    (0.75, 1.25)."""
    top = psroi_align(dict(spatial_scale=0.25, sample_num=3), PLANE, (0, 1, 3, 4, 6))
    close(top, [[[[0.75 + 4 * 1.25]]]])


def test_psroi_align_counts_what_is_beside_as_0():
    """(2, 2) to (6, 6), clipped to 3. With 7 samples, 0.5 apart, only (2.5, 2.5) lies before 3:
    12.5 / 49. With 2 samples, at 3.33, none does."""
    close(psroi_align(dict(sample_num=7), PLANE, (0, 2, 2, 5, 5)), [[[[12.5 / 49]]]])
    close(psroi_align({}, PLANE, (0, 2, 2, 5, 5)), [[[[0]]]])


def test_psroi_align_of_four_bins():
    """(0, 0) to (3, 3): bins of 1.5, one sample in the middle of each, at 0.75 and 2.25."""
    top = psroi_align(dict(group_size=2, sample_num=1), MAPS, (0, 0, 0, 2, 2))
    expected = [[0.75 + 3, 102.25 + 3], [200.75 + 9, 302.25 + 9]]
    close(top, [[expected]])


def align(param, image, *boxes):
    (top,) = run("ROIAlign", param, [image, regions(*boxes)], dialect="makefile-frcnn")
    return top


@pytest.mark.parametrize("bi_type", [0, 2])
def test_roi_align_linear(bi_type):
    """roi_align_layer.cpp: (0, 0) to (2, 2) is 3 wide: one bin, its middle is (1.5, 1.5)."""
    param = dict(pooled_h=1, pooled_w=1, bi_type=bi_type)
    close(align(param, PLANE, (0, 0, 0, 2, 2)), [[[[7.5]]]])


def test_roi_align_cubic():
    """The kernel of a = -1 is 0.625 at 0.5 and -0.125 at 1.5. Columns 0.5, 1.5, 2.5 of [0 1 2 3],
    the ends repeated: 0.625 - 0.25, 1.5 and -0.125 + 1.25 + 1.875 - 0.375; row 1.5 is 4 * 1.5."""
    top = align(dict(pooled_h=1, pooled_w=3, is_multi_interpolate=False), PLANE, (0, 0, 0, 2, 2))
    close(top, [[[[6.375, 7.5, 8.625]]]])


def test_roi_align_pads():
    """(1, 1) to (1, 1) is 1 wide: a pad of 1 * 1 makes it (0, 0) to (2, 2)."""
    top = align(dict(pooled_h=1, pooled_w=1, bi_type=0, pad_ratio=1), PLANE, (0, 1, 1, 1, 1))
    close(top, [[[[7.5]]]])


def test_roi_align_clips():
    """The start to 0; the end, though on the map, to the size of the input less 1, 4 / 0.5 - 1 = 7:
    -2 * 0.5 becomes 0, 20 * 0.5 becomes 7, 8 wide in both axes. In 4 bins of 2 the middles are 1,
    3, 5, 7, clipped to 3, where the weights of the fork's linear code are both 0."""
    top = align(
        dict(pooled_h=4, pooled_w=1, bi_type=0, spatial_scale=0.5), PLANE, (0, -2, -2, 2, 20)
    )
    # x: 0 to 1, 2 wide, the middle is 1.
    close(top[0, 0, :, 0], [5, 0, 0, 0])
    top = align(dict(pooled_h=4, pooled_w=1, spatial_scale=0.5), PLANE, (0, -2, -2, 2, 20))
    close(top[0, 0, :, 0], [5, 13, 13, 13])


PARAMS = {
    "ROIPooling": (dict(pooled_h=2, pooled_w=3), "faster-rcnn"),
    "ROIAlign": (dict(pooled_h=2, pooled_w=3), "makefile-frcnn"),
    "PSROIPooling": (dict(output_dim=3, group_size=2, spatial_scale=1), "r-fcn"),
    "PSROIAlign": (dict(output_dim=3, group_size=2, spatial_scale=1), "makefile-frcnn"),
}
EACH = pytest.mark.parametrize("type_", PARAMS)


@EACH
def test_the_rows_are_the_boxes(type_):
    """No top has a batch; its rows vary where the boxes' do."""
    param, dialect = PARAMS[type_]
    shapes = [(2, 12, 8, 11), (5, 5)]
    made, _, tops = infer(type_, param, shapes, dialect=dialect)
    assert tops[0][0] == 5
    assert made.batch_axes(shapes, [0, 0], tops) == [None]
    assert made.varying(shapes, [None, 0], tops) == [0]
    assert made.varying(shapes, [None, None], tops) == [None]
    for axes in ([0, 0], [None, 1]):
        with pytest.raises(UnsupportedModel, match="depends on the data"):
            made.varying(shapes, axes, tops)


@EACH
def test_no_boxes_give_no_rows(type_):
    param, dialect = PARAMS[type_]
    made, _, _ = infer(type_, param, [(2, 12, 8, 11), (5, 5)], dialect=dialect)
    image = np.ones((2, 12, 8, 11), np.float32)
    (top,) = made.forward([image, np.zeros((0, 5), np.float32)], [], 1)
    channels = 12 if "PS" not in type_ else 3
    assert top.shape == (0, channels, *made.grid())


@EACH
def test_the_examples_are_boxes_of_the_images(type_):
    """On maps of 8 by 11 at a scale of 0.5: images of 16 by 22 pixels, taken in turn."""
    param, dialect = PARAMS[type_]
    for rois in ((40, 5), (40, 5, 1, 1)):
        shapes = [(2, 12, 8, 11), rois]
        made, _, _ = infer(type_, dict(param, spatial_scale=0.5), shapes, dialect=dialect)
        examples = made.examples(shapes)
        assert list(examples) == [1]
        assert examples[1].dtype == np.float32 and examples[1].shape == rois
        image, x1, y1, x2, y2 = examples[1].reshape(40, 5).T
        np.testing.assert_array_equal(image, [0, 1] * 20)
        for low, high, size in ((x1, x2, 22), (y1, y2, 16)):
            sides, middle = high - low, (high + low) / 2
            assert sides.min() >= 0.099 * size and sides.max() <= size
            assert sides.max() > 5 * sides.min()
            assert 0 <= middle.min() < 0.1 * size and 0.9 * size < middle.max() <= size
            assert (low < 0).any() and (high > size).any() and ((low > 0) & (high < size)).any()
        maps = np.random.default_rng(1).standard_normal(shapes[0]).astype(np.float32)
        (top,) = made.forward([maps, examples[1]], [], 1)
        assert len(np.unique(top, axis=0)) == 40


@pytest.mark.parametrize("scale", [0, -1, float("nan")])
def test_a_scale_that_is_none_has_boxes_on_the_map(scale):
    made, _, _ = infer(
        "PSROIPooling", dict(output_dim=3, group_size=2, spatial_scale=scale),
        [(2, 12, 8, 11), (5, 5)], dialect="r-fcn",
    )  # fmt: skip
    boxes = made.examples([(2, 12, 8, 11), (5, 5)])[1]
    assert np.isfinite(boxes).all() and 1 < abs(boxes).max() < 22


SHAPES = [(2, 12, 8, 11), (5, 5)]
MALFORMED = [
    *((type_, {}, [SHAPES[0], (5, 4)], "a region should have 5 values") for type_ in PARAMS),
    *((type_, {}, [SHAPES[0], ()], "a region should have 5 values") for type_ in PARAMS),
    *((type_, {}, [(2, 12, 8), (5, 5)], "should have 4 axes") for type_ in PARAMS),
    *(
        (type_, {name: 0}, SHAPES, "should be positive")
        for type_ in ("ROIPooling", "ROIAlign")
        for name in ("pooled_h", "pooled_w")
    ),
    *(
        (type_, {name: value}, SHAPES, message)
        for type_ in ("PSROIPooling", "PSROIAlign")
        for name, value, message in (
            ("output_dim", 0, "should be positive"),
            ("group_size", 0, "should be positive"),
            ("group_size", 3, "number of channels, 12"),
        )
    ),
    ("PSROIAlign", dict(sample_num=0), SHAPES, "should be positive"),
]


@pytest.mark.parametrize("type_, change, shapes, message", MALFORMED)
def test_what_is_malformed(type_, change, shapes, message):
    param, dialect = PARAMS[type_]
    with pytest.raises(MalformedModel, match=message):
        infer(type_, dict(param, **change), shapes, dialect=dialect)


@pytest.mark.parametrize(
    "type_, dialect, message",
    [
        ("ROIAlign", "synopsys", "leaves out every region"),
        ("DeformablePSROIPooling", "makefile-frcnn", "code for GPUs alone"),
        ("ROIMaskPooling", "makefile-frcnn", "leaves the mask out"),
        ("ROIWarping", "soeaver", "code for GPUs alone"),
        ("Correlation1D", "flownet2", "code for GPUs alone"),
        ("DenseCRF", "pspnet", "lattice in a hash table"),
        ("MultiStageMeanfield", "crf-rnn", "lattices in a hash table"),
        ("DomainTransform", "pspnet", "from pixel to pixel"),
        ("FrcnnProposal", "makefile-frcnn", "configuration file"),
    ],
)
def test_what_is_always_refused(type_, dialect, message):
    with pytest.raises(UnsupportedModel, match=message):
        infer(type_, {}, [(2, 12, 8, 11), (5, 5)], dialect=dialect)


def test_a_scale_of_0_is_refused_where_the_fork_divides_by_it():
    param = dict(pooled_h=2, pooled_w=3, spatial_scale=0)
    with pytest.raises(UnsupportedModel, match="divide by zero"):
        infer("ROIAlign", param, [(2, 12, 8, 11), (5, 5)], dialect="makefile-frcnn")

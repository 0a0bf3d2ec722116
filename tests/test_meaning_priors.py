"""PriorBox by hand; the rules are those of prior_box_layer.cpp in weiliu89/caffe, branch ssd."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from tests.meanings import close, infer, run

# Two rows of three cells over an image 40 high and 60 wide: a cell is 20 x 20.
MAP, IMAGE = (2, 4, 2, 3), (2, 3, 40, 60)


def priors(map_=MAP, image=IMAGE, **param):
    """(cells * boxes, 4) corners, and as many variances."""
    bottoms = [np.zeros(map_, np.float32), np.zeros(image, np.float32)]
    (top,) = run("PriorBox", param, bottoms, dialect="ssd")
    return top.reshape(2, -1, 4)


def box(x, y, width, height, image=(60, 40)):
    """Corners as fractions of an image of (width, height)."""
    return [
        (x - width / 2) / image[0],
        (y - height / 2) / image[1],
        (x + width / 2) / image[0],
        (y + height / 2) / image[1],
    ]


def test_a_square_in_the_middle_of_every_cell():
    """Middles at 10, 30, 50 across and 10, 30 down, row after row; variance 0.1."""
    corners, variances = priors(min_size=[8.0])
    middles = [(10, 10), (30, 10), (50, 10), (10, 30), (30, 30), (50, 30)]
    close(corners, [box(x, y, 8, 8) for x, y in middles])
    # (10 - 4) / 60, (10 - 4) / 40, (10 + 4) / 60, (10 + 4) / 40
    close(corners[0], [0.1, 0.15, 14 / 60, 0.35])
    close(variances, np.full((6, 4), 0.1))


def test_the_boxes_of_a_cell_in_order():
    """Of each min_size: its square, sqrt(9 * 16) = 12, then ratio 4 (9 * 2 by 9 / 2) and 1 / 4."""
    corners, _ = priors(min_size=[9.0, 16.0], max_size=[16.0, 25.0], aspect_ratio=[4.0])
    sizes = [(9, 9), (12, 12), (18, 4.5), (4.5, 18), (16, 16), (20, 20), (32, 8), (8, 32)]
    assert corners.shape == (6 * 8, 4)
    close(corners[:8], [box(10, 10, *size) for size in sizes])
    close(corners[40:], [box(50, 30, *size) for size in sizes])


def test_without_flip_no_reciprocals():
    """A ratio of 1 and one that is there already (within 1e-6) make no box."""
    corners, _ = priors(min_size=[9.0], aspect_ratio=[1.0, 4.0, 4.0000001], flip=False)
    close(corners[:2], [box(10, 10, 9, 9), box(10, 10, 18, 4.5)])
    assert len(corners) == 6 * 2


def test_a_reciprocal_stands_for_the_ratio_it_is():
    """0.25 is there after 4 was flipped."""
    corners, _ = priors(min_size=[9.0], aspect_ratio=[4.0, 0.25])
    assert len(corners) == 6 * 3


def test_sides_are_whole_pixels():
    """min_size 9.9 is 9, max_size 16.9 is 16."""
    corners, _ = priors(min_size=[9.9], max_size=[16.9])
    close(corners[:2], [box(10, 10, 9, 9), box(10, 10, 12, 12)])


def test_clip():
    """(10 - 15) / 60 < 0 becomes 0; (50 + 15) / 60 > 1 becomes 1."""
    corners, _ = priors(min_size=[30.0], clip=True)
    close(corners[0], [0, 0, 25 / 60, 25 / 40])
    close(corners[5], [35 / 60, 15 / 40, 1, 1])
    unclipped, _ = priors(min_size=[30.0])
    close(unclipped[0], [-5 / 60, -5 / 40, 25 / 60, 25 / 40])


@pytest.mark.parametrize(
    "given, row", [([0.5], [0.5] * 4), ([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4])]
)
def test_variance(given, row):
    _, variances = priors(min_size=[8.0], aspect_ratio=[2.0], variance=given)
    close(variances, [row] * 18)


@pytest.mark.parametrize(
    "param, middle",
    [
        # (1 + 0.5) * 7, (1 + 0.5) * 7
        (dict(step=7.0), (10.5, 10.5)),
        # 1.5 * 6 across, 1.5 * 4 down
        (dict(step_h=4.0, step_w=6.0), (9, 6)),
        # 1.25 * 20
        (dict(offset=0.25), (25, 25)),
    ],
    ids=["step", "step_h-step_w", "offset"],
)
def test_middles(param, middle):
    """Of the cell in row 1, column 1."""
    corners, _ = priors(min_size=[8.0], **param)
    close(corners[4], box(middle[0], middle[1], 8, 8))


@pytest.mark.parametrize(
    "param, width, height",
    [(dict(img_size=90), 90, 90), (dict(img_h=80, img_w=30), 30, 80)],
    ids=["img_size", "img_h-img_w"],
)
def test_image_size(param, width, height):
    """Cells are width / 3 by height / 2, in place of what the second bottom says."""
    corners, _ = priors(min_size=[8.0], **param)
    close(corners[4], box(width / 2, height * 3 / 4, 8, 8, image=(width, height)))


def test_shape_and_batch():
    """One set of boxes for all images: 2 * 3 cells, 2 boxes, 4 numbers."""
    made, _, tops = infer(
        "PriorBox", dict(min_size=[8.0], max_size=[9.0]), [MAP, IMAGE], dialect="ssd"
    )
    assert tops == [(1, 2, 48)]
    assert made.batch_axes([MAP, IMAGE], [0, 0], tops) == [None]


@pytest.mark.parametrize(
    "param, message",
    [
        ({}, "positive min_size expected"),
        (dict(min_size=[0.0]), "positive min_size"),
        (dict(min_size=[8.0], max_size=[8.0]), "greater max_size for each"),
        (dict(min_size=[8.0], max_size=[9.0, 9.0]), "greater max_size for each"),
        (dict(min_size=[8.0], variance=[0.1, 0.2]), "1 or 4 positive variances"),
        (dict(min_size=[8.0], variance=[-0.1]), "1 or 4 positive variances"),
        (dict(min_size=[8.0], step_h=2.0), "step_h and step_w"),
        (dict(min_size=[8.0], step=2.0, step_h=2.0, step_w=2.0), "step_h and step_w"),
        (dict(min_size=[8.0], step=0.0), "step_h and step_w"),
        (dict(min_size=[8.0], img_w=5), "img_h and img_w"),
        (dict(min_size=[8.0], img_size=0), "img_h and img_w"),
    ],
)
def test_what_caffe_refuses(param, message):
    with pytest.raises(MalformedModel, match=message):
        infer("PriorBox", param, [MAP, IMAGE], dialect="ssd")


@pytest.mark.parametrize(
    "param, message",
    [
        (dict(aspect_ratio=[-2.0]), "is not positive"),
        (dict(reduce_boxes=True), "reduce_boxes"),
        (dict(faceboxes=True), "faceboxes"),
        (dict(box_width=[3.0]), "box_width"),
        (dict(tf=True), "tf, Synopsys's"),
        (dict(yx_order=True), "yx_order"),
        (dict(keras=True), "keras"),
    ],
)
def test_what_is_not_supported(param, message):
    with pytest.raises(UnsupportedModel, match=message):
        infer("PriorBox", {"min_size": [8.0], **param}, [MAP, IMAGE], dialect="ssd")


def test_a_fork_s_field_that_is_off_changes_nothing():
    plain = priors(min_size=[8.0])
    np.testing.assert_array_equal(priors(min_size=[8.0], reduce_boxes=False, tf=False), plain)

"""Region proposals: anchors moved by deltas, the best of those that do not overlap."""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import count, need_axes
from schemas.layers.registry import MAX_COUNT, Meaning, layer


class Found(NamedTuple):
    """Boxes (boxes, 4): x1, y1, x2, y2, and their scores (boxes,); best first where ranked."""

    boxes: np.ndarray
    scores: np.ndarray


class Limits(NamedTuple):
    """How many boxes are compared, how many are kept, and what overlap is too much."""

    candidates: int
    kept: int
    overlap: float


class Proposals(Meaning):
    """What both layers share.

    Bottoms: scores (1, 2 * anchors, H, W), of which the second half is read; deltas
    (1, 4 * anchors, H, W); im_info: the image's height, width and scale.
    """

    bottom_count = (3, 3)
    top_count = (1, 2)

    def check(self) -> None:
        with np.errstate(all="ignore"):
            finite = np.isfinite(self.anchors()).all()
        if not finite:
            raise MalformedModel("the ratios and scales give no finite anchors")

    def anchors(self) -> np.ndarray:
        """(anchors, 4): x1, y1, x2, y2 at the first place of the map, float32."""
        raise NotImplementedError

    def stride(self) -> int:
        """Pixels of the image to a place of the map."""
        raise NotImplementedError

    def limits(self) -> Limits:
        raise NotImplementedError

    def im_info(self) -> int:
        """How many values are read of bottom 2."""
        raise NotImplementedError

    def ranked(self, found: Found, info: np.ndarray) -> Found:
        """The candidates, best first."""
        raise NotImplementedError

    def scored(self, scores: np.ndarray) -> np.ndarray:
        """The second top."""
        return scores

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        scores, deltas, info = bottoms
        need_axes(scores, 4)
        if scores[0] != 1:
            raise MalformedModel(f"only a batch of 1 is possible, found {scores[0]}")
        number = len(self.anchors())
        wanted = [(1, part * number) + tuple(scores[2:]) for part in (2, 4)]
        if [tuple(scores), tuple(deltas)] != wanted:
            raise MalformedModel(
                f"{number} anchors need bottoms of shapes {list(wanted[0])} and {list(wanted[1])}, "
                f"found {list(scores)} and {list(deltas)}"
            )
        if count(info) < self.im_info():
            raise MalformedModel(
                f"im_info should have {self.im_info()} values, found shape {list(info)}"
            )
        return self.tops()[:tops]

    def tops(self) -> List[Shape]:
        """What the fork shapes the tops to before the first pass."""
        raise NotImplementedError

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return 0

    def varying(
        self, bottoms: Sequence[Shape], axes: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        if any(axis is not None for axis in axes):
            raise UnsupportedModel("the number of images depends on the data")
        return [0] * len(tops)

    def examples(self, bottoms: Sequence[Shape]) -> Dict[int, np.ndarray]:
        """im_info of an image as large as the map makes it, at its own scale."""
        info = np.ones(count(bottoms[2]), np.float32)
        info[:2] = [size * self.stride() for size in bottoms[0][2:]]
        return {2: info.reshape(bottoms[2])}

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        scores, deltas, info = bottoms[0][0], bottoms[1][0], bottoms[2].reshape(-1)
        anchors = self._moved(deltas).reshape(-1, 4)
        limit = np.array([info[1], info[0]] * 2) - np.float32(1)
        boxes = np.maximum(np.minimum(anchors, limit), np.float32(0))
        foreground = scores[len(scores) // 2 :].transpose(1, 2, 0).reshape(-1)
        ranked = self.ranked(Found(boxes, foreground), info)
        kept = thinned(ranked.boxes, self.limits())
        rois = np.zeros((len(kept), 5), np.float32)
        rois[:, 1:] = ranked.boxes[kept]
        return [rois, self.scored(ranked.scores[kept])][:tops]

    def _moved(self, deltas: np.ndarray) -> np.ndarray:
        """The anchors of every place, moved and stretched: (H, W, anchors, 4)."""
        anchors = self.anchors()
        _, height, width = deltas.shape
        by_anchor = deltas.reshape(len(anchors), 4, height, width).transpose(2, 3, 0, 1)
        shifts = np.zeros((height, width, 1, 4), np.float32)
        shifts[..., 0::2] = (np.arange(width) * self.stride())[:, None, None]
        shifts[..., 1::2] = (np.arange(height) * self.stride())[:, None, None, None]
        at = shifts + anchors
        size = at[..., 2:] - at[..., :2] + np.float32(1)
        middle = at[..., :2] + np.float32(0.5) * size
        middle = by_anchor[..., :2] * size + middle
        half = np.float32(0.5) * (np.exp(by_anchor[..., 2:]) * size)
        return np.concatenate([middle - half, middle + half], axis=-1)


def made_anchors(base: int, ratios: np.ndarray, scales: np.ndarray, down: bool) -> np.ndarray:
    """Boxes about the middle of a square of `base` pixels, ratio by ratio, scale by scale.

    Args:
        ratios: height / width; its type is what is computed in.
        down: whether a half is rounded as C does by adding 0.5, or to an even number as NumPy does.
    """

    def rounded(x: np.ndarray) -> np.ndarray:
        return np.floor(x + x.dtype.type(0.5)) if down else np.round(x)

    width = rounded(np.sqrt(ratios.dtype.type(base * base) / ratios))
    height = rounded(width * ratios)
    half = [(np.outer(side, scales).reshape(-1) - 1) / 2 for side in (width, height)]
    middle = (base - 1) / 2
    corners = [middle - half[0], middle - half[1], middle + half[0], middle + half[1]]
    return np.stack(corners, axis=1).astype(np.float32)


def thinned(boxes: np.ndarray, limits: Limits) -> np.ndarray:
    """Places of the boxes that overlap no better kept one too much; the best come first.

    Boxes are counted in pixels: both ends belong to them.
    """
    boxes = boxes[: limits.candidates]
    one = np.float32(1)
    area = (boxes[:, 2] - boxes[:, 0] + one) * (boxes[:, 3] - boxes[:, 1] + one)
    left = np.ones(len(boxes), bool)
    kept: List[int] = []
    while left.any() and len(kept) < limits.kept:
        best = int(left.argmax())
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[:, :2])
        high = np.minimum(boxes[best, 2:], boxes[:, 2:])
        sides = np.maximum(high - low + one, np.float32(0))
        both = sides[:, 0] * sides[:, 1]
        left &= ~(both / (area[best] + area - both) > np.float32(limits.overlap))
        left[best] = False
    return np.array(kept, np.int64)


def sides(boxes: np.ndarray) -> np.ndarray:
    """(boxes, 2): width and height in pixels."""
    return boxes[:, 2:] - boxes[:, :2] + np.float32(1)


@layer("Proposal", message="proposal_param", dialect="pvanet")
class Proposal(Proposals):
    """Region proposals of PVANet (sanghoon/caffe's proposal_layer.cpp).

    im_info is height, width, scale of the height, scale of the width. A box with a side under
    `min_size` times its scale gets score 0, and stays. The `pre_nms_topn` best are thinned to those
    that overlap no better one by more than `nms_thresh`, at most `post_nms_topn`. Rows: 0, x1, y1,
    x2, y2; the second top holds the scores. Boxes of one score keep the order of places and
    anchors; the fork's quicksort leaves them in one of its own.
    """

    feat_stride: int = 16
    base_size: int = 16
    min_size: int = 16
    ratio: Tuple[float, ...] = ()
    scale: Tuple[float, ...] = ()
    pre_nms_topn: int = 6000
    post_nms_topn: int = 300
    nms_thresh: float = 0.7

    def check(self) -> None:
        if not self.ratio or not self.scale:
            raise MalformedModel("ratio and scale should be given")
        if min(self.ratio) <= 0 or min(self.pre_nms_topn, self.post_nms_topn) < 1:
            raise MalformedModel("ratio, pre_nms_topn and post_nms_topn should be positive")
        super().check()

    def anchors(self) -> np.ndarray:
        ratios, scales = np.array(self.ratio, np.float32), np.array(self.scale, np.float32)
        return made_anchors(self.base_size, ratios, scales, down=True)

    def stride(self) -> int:
        return self.feat_stride

    def limits(self) -> Limits:
        return Limits(self.pre_nms_topn, self.post_nms_topn, self.nms_thresh)

    def im_info(self) -> int:
        return 4

    def tops(self) -> List[Shape]:
        return [(self.post_nms_topn, 5), (self.post_nms_topn,)]

    def ranked(self, found: Found, info: np.ndarray) -> Found:
        least = np.float32(self.min_size) * info[[3, 2]]
        scores = found.scores * (sides(found.boxes) >= least).all(axis=1)
        order = np.argsort(-scores, kind="stable")[: self.pre_nms_topn]
        return Found(found.boxes[order], scores[order])


@layer(
    "Python",
    message="python_param",
    harmless={"share_in_parallel": "training on several GPUs"},
    dialect="rpn.proposal_layer.ProposalLayer",
)
class ProposalLayer(Proposals):
    """Region proposals of Faster R-CNN (py-faster-rcnn's lib/rpn/proposal_layer.py, with the
    settings that lib/fast_rcnn/config.py has for TEST).

    im_info is height, width, scale. `param_str` holds 'feat_stride', and perhaps 'scales' (8, 16,
    32) and 'ratios' (0.5, 1, 2). A box with a side under 16 * scale is dropped; the 6000 best are
    thinned to those that overlap no better one by more than 0.7, at most 300. Rows: 0, x1, y1, x2,
    y2; the second top holds the scores. Of one score, what comes later is better: NumPy's sort
    does not say, and is read from its end.
    """

    module: str = ""
    layer: str = ""
    param_str: str = ""

    def check(self) -> None:
        self.settings()
        super().check()

    def settings(self) -> Dict[str, List[float]]:
        """What `param_str` holds, by name.

        Raises:
            UnsupportedModel: it holds what is not understood.
            MalformedModel: a value is not what the layer can use.
        """
        found = yaml_numbers(self.param_str)
        unknown = set(found) - {"feat_stride", "scales", "ratios"}
        if unknown:
            raise UnsupportedModel(f"param_str has {min(unknown)!r}, which is not understood")
        stride = found.get("feat_stride", [])
        if len(stride) != 1 or not stride[0].is_integer() or abs(stride[0]) > MAX_COUNT:
            raise MalformedModel("param_str should have a whole number 'feat_stride'")
        for name in ("scales", "ratios"):
            if name in found and (not found[name] or min(found[name]) <= 0):
                raise MalformedModel(f"{name!r} in param_str should be positive numbers")
        return {"scales": [8, 16, 32], "ratios": [0.5, 1, 2], **found}

    def anchors(self) -> np.ndarray:
        ratios, scales = (
            np.array(self.settings()[name], np.float64) for name in ("ratios", "scales")
        )
        return made_anchors(16, ratios, scales, down=False)

    def stride(self) -> int:
        return int(self.settings()["feat_stride"][0])

    def limits(self) -> Limits:
        return Limits(candidates=6000, kept=300, overlap=0.7)

    def im_info(self) -> int:
        return 3

    def tops(self) -> List[Shape]:
        return [(1, 5), (1, 1)]

    def scored(self, scores: np.ndarray) -> np.ndarray:
        return scores[:, None]

    def ranked(self, found: Found, info: np.ndarray) -> Found:
        large = (sides(found.boxes) >= np.float32(16) * info[2]).all(axis=1)
        boxes, scores = found.boxes[large], found.scores[large]
        order = np.argsort(scores, kind="stable")[::-1][: self.limits().candidates]
        return Found(boxes[order], scores[order])


_KEY = r"""\s*(?:'(\w+)'|"(\w+)"|(\w+))\s*:\s*"""
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_LIST = rf"(?:!!python/tuple\s*)?\[\s*({_NUMBER}(?:\s*,\s*{_NUMBER})*)\s*,?\s*\]"
_ENTRY = re.compile(rf"{_KEY}(?:({_NUMBER})|{_LIST})\s*(?:[,\n]\s*|$)")


def yaml_numbers(text: str) -> Dict[str, List[float]]:
    """A YAML mapping of names to numbers or lists of numbers, with or without its braces.

    Raises:
        UnsupportedModel: the text holds anything else.
    """
    text = text.strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1].strip()
    found: Dict[str, List[float]] = {}
    at = 0
    while at < len(text):
        entry = _ENTRY.match(text, at)
        if entry is None:
            raise UnsupportedModel(f"param_str is not understood from {text[at : at + 30]!r} on")
        *names, number, numbers = entry.groups()
        values = number if number is not None else numbers
        found[next(filter(None, names))] = [float(value) for value in values.split(",")]
        at = entry.end()
    return found


@layer("FrcnnProposal", dialect="makefile-frcnn")
class FrcnnProposal(Meaning):
    """Region proposals of makefile/frcnn and py-RFCN-priv (frcnn_proposal_layer.cpp)."""

    def check(self) -> None:
        raise UnsupportedModel(
            "its anchors and limits stand in a configuration file beside the net (FrcnnParam)"
        )

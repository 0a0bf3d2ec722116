"""The net as a picture: which layers share a box, where each box stands, how the lines run.

igraph's Sugiyama layout places the boxes of a flow from top to bottom. A long net is then set in
columns, as text in a newspaper is, so that all of it has the shape of a screen.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import igraph

from stage_build.page.facts import Facts

# In the units of the picture, which are pixels at zoom 1.
BOX = (216, 62)
GAP = (26, 30)
ROW = BOX[1] + GAP[1]
GUTTER = 96  # between columns
TRACK = 7  # between lines that go from one column to the next
LANE = 18  # between lines that no box stands between
MARGIN = 24

ASPECT = 1.35  # width by height
MIN_ROWS = 8  # of a column
# Rows that trunks may cross in all; the lines of longer ones are drawn straight.
MAX_CROSSED = 20_000

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """Layers that are drawn as one.

    Attributes:
        layers: indices in `Facts.layers`; the first gives the box its name.
        x, y: of its left upper corner.
    """

    layers: tuple[int, ...]
    x: float
    y: float


@dataclass(frozen=True)
class Line:
    """A line as the `d` of an SVG path.

    Attributes:
        start: the box that it leaves.
        end: the box that it arrives at; None for the trunk that the lines of `start` share.
    """

    start: int
    end: int | None
    path: str


@dataclass(frozen=True)
class Picture:
    """Boxes and lines.

    Attributes:
        column: the width of the first column, margins included.
    """

    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    width: float
    height: float
    column: float


def draw(facts: Facts, outputs: Sequence[str]) -> Picture:
    """The picture of a net whose outputs are these blobs."""
    groups = together(facts, outputs)
    edges = _edges(facts, groups)
    rows = _rows(len(groups), edges)
    places, trunks = _placed(rows, edges)
    cuts = _cuts(rows, places, edges)
    frame = _framed(rows, places, trunks, edges, cuts)
    boxes = tuple(
        Box(group, frame.x(row, place) - BOX[0] / 2, frame.y(row))
        for group, row, place in zip(groups, rows, places, strict=True)
    )
    return Picture(
        boxes=boxes,
        lines=tuple(_lines(rows, places, trunks, edges, frame)),
        width=frame.right[-1] + MARGIN,
        height=frame.bottom + (frame.top if len(cuts) > 1 else MARGIN),
        column=frame.right[0] + MARGIN,
    )


def together(facts: Facts, outputs: Sequence[str]) -> list[tuple[int, ...]]:
    """Layers by box: one that works value by value on what it alone reads joins who wrote that.

    BatchNorm, Scale, ReLU and Dropout behind a convolution are the ones that this is for.
    """
    readers = Counter(key for layer in facts.layers for key in layer.bottoms)
    kept = set(outputs)
    groups: list[list[int]] = []
    of: dict[str, int] = {}  # blob key -> its writer's box
    for index, layer in enumerate(facts.layers):
        box = len(groups)
        if len(layer.bottoms) == len(layer.tops) == 1 and not layer.macs:
            (bottom,), (top,) = layer.bottoms, layer.tops
            writer = of.get(bottom, 0)
            alone = readers[bottom] == 1 and bottom not in kept and top not in kept
            follows = facts.layers[groups[writer][-1]] if groups else layer
            if alone and follows.tops == (bottom,) and follows.bottoms:
                same = facts.shapes[bottom] == facts.shapes[top]
                box = writer if same else box
        if box == len(groups):
            groups.append([])
        groups[box].append(index)
        of.update(dict.fromkeys(layer.tops, box))
    return [tuple(group) for group in groups]


def _edges(facts: Facts, groups: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """(from, to) of boxes, each once, in order."""
    layers = facts.layers
    of = {key: box for box, group in enumerate(groups) for i in group for key in layers[i].tops}
    pairs = (
        (of[key], box)
        for box, group in enumerate(groups)
        for i in group
        for key in layers[i].bottoms
    )
    return [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]


def _rows(boxes: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The row of each box: below all that it reads, and a box that reads none above its reader."""
    rows = [0] * boxes
    for start, end in edges:  # boxes are in an order that no edge goes against
        rows[end] = max(rows[end], rows[start] + 1)
    read = {end for _, end in edges}
    readers: dict[int, int] = {}
    for start, end in edges:
        if start not in read:
            readers[start] = min(readers.get(start, rows[end]), rows[end])
    for start, row in readers.items():
        rows[start] = row - 1
    return rows


def _placed(
    rows: Sequence[int], edges: Sequence[tuple[int, int]]
) -> tuple[list[float], dict[int, dict[int, float]]]:
    """The middle of each box, and of each box's trunk in the rows that it passes, along x.

    A trunk is what the lines of one box share: it goes on to the row above the last reader, and
    passes a row in one place. A box beyond `MAX_CROSSED` has none.
    """
    last: dict[int, int] = {}
    for start, end in edges:
        last[start] = max(last.get(start, 0), rows[end])
    levels = list(rows)
    stems: dict[int, list[int]] = {}  # box -> the vertices of itself and of its trunk
    steps: list[tuple[int, int]] = []
    crossed = 0
    for start in sorted(last, key=lambda start: (last[start] - rows[start], start)):
        crossed += last[start] - rows[start] - 1
        if crossed > MAX_CROSSED:
            break
        below = range(rows[start] + 1, last[start])
        stems[start] = [start, *range(len(levels), len(levels) + len(below))]
        levels += below
        steps += zip(stems[start], stems[start][1:], strict=False)
    for start, end in edges:
        if start in stems:
            steps.append((stems[start][rows[end] - rows[start] - 1], end))
    graph = igraph.Graph(n=len(levels), edges=steps, directed=True)
    found = graph.layout_sugiyama(layers=levels, hgap=BOX[0] + GAP[0], vgap=1, maxiter=50)
    places = _apart(levels, [float(x) for x, _ in found.coords])
    trunks = {
        start: {levels[vertex]: places[vertex] for vertex in stem[1:]}
        for start, stem in stems.items()
    }
    return places[: len(rows)], trunks


def _apart(levels: Sequence[int], places: Sequence[float]) -> list[float]:
    """The places, moved on to the right where two of a row are nearer than they should be.

    igraph takes the mean of several placings, which does not keep their distances.
    """
    kept, ahead = list(places), dict[int, float]()
    for vertex in sorted(range(len(places)), key=places.__getitem__):
        least = ahead.get(levels[vertex], -math.inf) + BOX[0] + GAP[0]
        ahead[levels[vertex]] = kept[vertex] = max(places[vertex], least)
    return kept


def _cuts(
    rows: Sequence[int], places: Sequence[float], edges: Sequence[tuple[int, int]]
) -> list[int]:
    """The first row of each column: where few lines cross, near equal lengths."""
    height = max(rows, default=0) + 1
    width = max(places, default=0) - min(places, default=0) + BOX[0] + GUTTER

    def off(columns: int) -> float:
        return abs(math.log(columns * width / (height / columns * ROW) / ASPECT))

    count = min(range(1, max(1, height // MIN_ROWS) + 1), key=off)
    change = [0] * (height + 1)
    for start, end in edges:
        change[rows[start] + 1] += 1
        change[rows[end] + 1] -= 1
    crossing = [*accumulate(change)]
    cuts = [0]
    slack = height // count // 6
    for column in range(1, count):
        middle = round(column * height / count)
        near = range(middle - slack, middle + slack + 1)
        cuts.append(min(near, key=lambda row: (crossing[row], abs(row - middle))))
    return cuts


@dataclass(frozen=True)
class _Frame:
    """Where rows and places come to stand.

    Attributes:
        of: row -> column.
        cuts: the first row of each column.
        along: place -> x, for each column.
        right: the right side of each column.
        top, bottom: of all columns.
    """

    of: Sequence[int]
    cuts: Sequence[int]
    along: Sequence[Mapping[float, float]]
    right: Sequence[float]
    top: float
    bottom: float

    def x(self, row: int, place: float) -> float:
        """The middle of what stands at `place` of a row."""
        return self.along[self.of[row]][place]

    def y(self, row: int) -> float:
        """The upper side of the boxes of a row."""
        return self.top + (row - self.cuts[self.of[row]]) * ROW


def _framed(
    rows: Sequence[int],
    places: Sequence[float],
    trunks: Mapping[int, Mapping[int, float]],
    edges: Sequence[tuple[int, int]],
    cuts: Sequence[int],
) -> _Frame:
    """Sets the flow in columns."""
    height = max(rows, default=0) + 1
    of = [bisect_right(cuts, row) - 1 for row in range(height)]
    boxes: list[set[float]] = [set() for _ in cuts]
    lines: list[set[float]] = [set() for _ in cuts]
    for row, place in zip(rows, places, strict=True):
        boxes[of[row]].add(place)
    for trunk in trunks.values():
        for row, place in trunk.items():
            lines[of[row]].add(place)
    leaving: list[set[int]] = [set() for _ in cuts]  # boxes whose lines go on to another column
    for start, end in edges:
        for column in range(of[rows[start]], of[rows[end]]):
            leaving[column].add(start)
    along, right, x = [], [], float(MARGIN)
    for column in range(len(cuts)):
        found, width = _closed(boxes[column], lines[column])
        along.append({place: x + offset for place, offset in found.items()})
        right.append(x + width)
        x += width + GUTTER + TRACK * len(leaving[column])
    top = MARGIN + TRACK * (max(map(len, leaving)) + 1) * (len(cuts) > 1)
    longest = max(end - cut for cut, end in zip(cuts, [*cuts[1:], height], strict=True))
    return _Frame(of, cuts, along, right, top, top + longest * ROW - GAP[1])


def _closed(boxes: Collection[float], lines: Collection[float]) -> tuple[dict[float, float], float]:
    """Where each place comes to stand, and the width of all.

    Lines that have no box above or below them need not keep a box's distance.
    """
    found: dict[float, float] = {}
    offset, end, free = 0.0, -math.inf, 0.0  # `end` is of the boxes so far, `free` of all
    for place in sorted({*boxes, *lines}):
        if place in boxes:
            if place - BOX[0] / 2 > end:
                offset = free - (place - BOX[0] / 2)
            end = place + BOX[0] / 2
            free = end + offset + GAP[0]
        if place <= end:
            found[place] = place + offset
        else:
            found[place] = free
            free += LANE
    return found, max(end + offset, *found.values())


def _lines(
    rows: Sequence[int],
    places: Sequence[float],
    trunks: Mapping[int, Mapping[int, float]],
    edges: Sequence[tuple[int, int]],
    frame: _Frame,
) -> Iterator[Line]:
    """The trunks, and a line for each pair of boxes from where it leaves the trunk."""
    tracks: list[dict[int, int]] = [{} for _ in frame.right]  # of each column: box -> its own

    def foot(box: int, row: int) -> Point:
        place = trunks[box][row] if row > rows[box] else places[box]
        return frame.x(row, place), frame.y(row) + BOX[1]

    def drawn(box: int, row: int, there: Point, row_: int) -> str:
        """From the foot of a box or of its trunk in `row` down to `there`, in `row_`."""
        here, column = foot(box, row), frame.of[row]
        if column == frame.of[row_]:
            return _bend(here, there)
        track = TRACK * tracks[column].setdefault(box, len(tracks[column]))
        gutter = frame.right[column] + GUTTER / 2 + track
        low, high = frame.bottom + 10 + track, frame.top - 10 - track
        return (
            _bend(here, (here[0], frame.bottom))
            + f"V{low:.0f}H{gutter:.0f}V{high:.0f}H{there[0]:.0f}V{there[1]:.0f}"
        )

    for start, trunk in trunks.items():
        path = "M{:.0f} {:.0f}".format(*foot(start, rows[start]))
        for row in trunk:
            x, low = foot(start, row)
            path += drawn(start, row - 1, (x, frame.y(row)), row) + f"V{low:.0f}"
        if trunk:
            yield Line(start, None, path)
    for start, end in edges:
        row = rows[end] - 1 if start in trunks else rows[start]
        there = frame.x(rows[end], places[end]), frame.y(rows[end])
        begun = "M{:.0f} {:.0f}".format(*foot(start, row))
        yield Line(start, end, begun + drawn(start, row, there, rows[end]))


def _bend(here: Point, there: Point) -> str:
    """A curve that leaves and arrives upright."""
    if abs(here[0] - there[0]) < 0.5:
        return f"V{there[1]:.0f}" if there[1] > here[1] else ""
    middle = (here[1] + there[1]) / 2
    return f"C{here[0]:.0f} {middle:.0f} {there[0]:.0f} {middle:.0f} {there[0]:.0f} {there[1]:.0f}"

"""What results come to: accuracy, confusions, the worst classes; and shards made one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from schemas.errors import UsageError, listed
from stage_build.validation.results import Record, Results

CONFUSIONS = 20
WORST = 20


class Tally:
    """Counts, as images are read, for how many the label is the best guess, and among the best.

    Args:
        top: among how many.
        records: what is known already; what could not be read does not count.
    """

    def __init__(self, top: int, records: Iterable[Record]) -> None:
        self.images = 0
        self.right = dict.fromkeys(sorted({1, top}), 0)
        self.add(records)

    def add(self, records: Iterable[Record]) -> None:
        """Counts some more."""
        for record in records:
            if not record.unreadable:
                self.images += 1
                for k in self.right:
                    self.right[k] += record.right(k)

    def accuracy(self) -> dict[str, float]:
        """``{"1": 0.64, "5": 0.86}``; there must be an image."""
        return {str(k): count / self.images for k, count in self.right.items()}

    def text(self) -> str:
        """``64.0% top-1, 86.0% top-5``."""
        parts = self.accuracy() if self.images else {}
        return ", ".join(f"{part:.1%} top-{k}" for k, part in parts.items())


def summary(results: Results) -> dict[str, Any]:
    """The figures as JSON values.

    ``accuracy`` is by k; of ``confusions`` and ``worst_classes`` the first 20 are there; of a class
    ``accuracy`` is that of the best guess.

    Raises:
        UsageError: no image could be read.
    """
    setting, records = results.setting, results.records.values()
    read = [record for record in records if not record.unreadable]
    lost = [record for record in records if record.unreadable]
    if not read:
        reasons = {record.unreadable for record in lost}
        raise UsageError(
            f"none of the {len(lost)} images could be read: {listed(sorted(reasons), 2)}",
            hint="check --images",
        )

    def name(index: int) -> str:
        return setting.labels[index] if index < len(setting.labels) else str(index)

    wrong = Counter((one.label, one.top[0]) for one in read if not one.right(1))
    rights: dict[int, list[bool]] = defaultdict(list)
    for record in read:
        rights[record.label].append(record.right(1))
    worst = sorted(rights, key=lambda index: (_mean(rights[index]), -len(rights[index]), index))
    tally = Tally(setting.top, read)
    return {
        "images": tally.images,
        "classes": len(rights),
        "accuracy": tally.accuracy(),
        "right": {str(k): count for k, count in tally.right.items()},
        "unreadable": [{"name": one.name, "reason": one.unreadable} for one in lost],
        "confusions": [
            {"label": name(label), "predicted": name(predicted), "images": count}
            for (label, predicted), count in sorted(
                wrong.items(), key=lambda item: (-item[1], item[0])
            )[:CONFUSIONS]
        ],
        "worst_classes": [
            {"label": name(index), "images": len(rights[index]), "accuracy": _mean(rights[index])}
            for index in worst[:WORST]
            if not all(rights[index])
        ],
    }


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def merged(parts: Sequence[tuple[Path, Results]]) -> Results:
    """The results of all shards as those of one run.

    Raises:
        UsageError: they are of different settings, or are not each shard once.
    """
    first_path, first = parts[0]
    records: dict[str, Record] = {}
    for path, part in parts:
        differing = first.setting.differences(part.setting)
        if part.shard[1] != first.shard[1]:
            differing.append("the number of shards")
        if differing:
            raise UsageError(
                f"these results and those of {first_path} cannot be merged, what differs: "
                f"{', '.join(differing)}",
                str(path),
                "validate all shards in one way",
            )
    given = Counter(part.shard[0] for _, part in parts)
    twice = [f"{number}/{first.shard[1]}" for number, count in given.items() if count > 1]
    if twice:
        raise UsageError(f"shards are given twice: {listed(twice)}", hint="leave one of them out")
    count = first.shard[1]
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in given]
    if missing:
        raise UsageError(f"shards are missing: {listed(missing)}", hint="give all of them")
    for path, part in parts:
        both = records.keys() & part.records.keys()
        if both:
            raise UsageError(
                f"images of another shard are in this one: {listed(sorted(both), 3)}", str(path)
            )
        records.update(part.records)
    if len(records) != first.setting.count:
        raise UsageError(
            f"all shards have {first.setting.count} images, these have {len(records)}",
            hint="validate the shards again",
        )
    runs = [run for _, part in parts for run in part.runs]
    return Results(first.setting, (1, 1), records, runs)

"""Labels, shards, results and figures of `validate`, without a model."""

from __future__ import annotations

import io
import json
import os
import time
from dataclasses import replace

import numpy as np
import pytest

import orchestrate
from driver import display, validation
from driver.cluster.session import Cluster
from driver.options import Options
from schemas.errors import MalformedModel, UsageError
from schemas.presets import PRESETS
from stage_build.validation import examples, preset, results, summary, worker
from stage_build.validation.examples import Classes, Example
from stage_build.validation.results import Record, Results, ResultsFile, Setting

SYNSETS = (
    "n01440764 tench, Tinca tinca",
    "n01443537 goldfish, Carassius auratus",
    "n02012849 crane",
    "n03126707 crane",
)
CLASSES = Classes(SYNSETS, 4)


def listed(tmp_path, text):
    path = tmp_path / "labels.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# Labels


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a.jpg 3\nb.jpg 0\n", {"a.jpg": "3", "b.jpg": "0"}),
        ("a.jpg n01440764\n", {"a.jpg": "n01440764"}),
        ("a.jpg tench, Tinca tinca", {"a.jpg": "tench, Tinca tinca"}),
        ("two words.jpg 3\n", {"two words.jpg": "3"}),
        ("two words.jpg\tgreat white shark\n", {"two words.jpg": "great white shark"}),
        ("\ufeffa.jpg 3\r\n\r\n  b.jpg   4 \r\n", {"a.jpg": "3", "b.jpg": "4"}),
        ("./val/../val/a.jpg 3\na.jpg 1\na.jpg 1\n", {"val/a.jpg": "3", "a.jpg": "1"}),
        (b"\xe9.jpg 3\n", {"\udce9.jpg": "3"}),
    ],
    ids=["index", "synset", "class", "blanks", "tab", "windows", "paths", "latin-1"],
)
def test_a_list_of_labels(tmp_path, text, found):
    assert examples.read_list(listed(tmp_path, text)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 1\nb.jpg\n", "labels.txt:2: an image's name and its label were expected, found b"),
        ("a.jpg 1\na.jpg 2\n", "labels.txt:2: a.jpg is labelled 2, and was labelled 1 before"),
    ],
    ids=["no label", "two labels"],
)
def test_a_list_that_is_none(tmp_path, text, message):
    with pytest.raises(MalformedModel) as raised:
        examples.read_list(listed(tmp_path, text))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("n01440764", 0),
        ("n01440764 tench, Tinca tinca", 0),
        ("tench, Tinca tinca", 0),
        ("goldfish", 1),
        ("n03126707", 3),
        ("crane", None),
        ("2", 2),
        ("4", None),
        ("shark", None),
    ],
)
def test_what_a_class_is_called(text, index):
    assert CLASSES.index(text) == index


def test_images_of_a_list():
    names = ["a.jpg", "b.JPEG", "c.jpg", "d.jpg", "notes.txt", "odd"]
    labels = {"c.jpg": "crane", "a.jpg": "tench", "gone.jpg": "tench", "odd": "n03126707"}
    found = examples.from_list(names, labels, CLASSES)
    assert found.examples == (Example("a.jpg", 0), Example("odd", 3))
    assert found.notes == (
        "1 images are left out, no class is called crane",
        "1 images of the list are not there: gone.jpg",
        "2 images are not in the list: b.JPEG, d.jpg",
    )


def test_in_a_list_of_indices_the_names_of_classes_have_no_say():
    digits = Classes(("1", "2", "0"), 3)
    assert examples.from_list(["a.png"], {"a.png": "1"}, digits).examples == (Example("a.png", 1),)
    assert examples.from_folders(["1/a.png"], digits).examples == (Example("1/a.png", 0),)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "the list of labels is empty"),
        ({"b.jpg": "1"}, "no image of the list is there: b.jpg"),
        ({"a.jpg": "shark"}, "no label means one of the net's 4 classes: shark"),
        ({"a.jpg": "4", "c.jpg": "1"}, "the labels run from 1 to 4, a net's classes from 0 to 3"),
    ],
    ids=["empty", "other folder", "other classes", "from 1"],
)
def test_a_list_that_does_not_fit(labels, message):
    with pytest.raises(UsageError) as raised:
        examples.from_list(["a.jpg", "c.jpg"], labels, CLASSES)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (("n01443537", "n01440764"), (1, 0)),
        (("goldfish", "tench, Tinca tinca"), (1, 0)),
        (("3", "10"), (3, 10)),
        (("d", "b", "a", "c"), (3, 1, 0, 2)),
    ],
    ids=["synsets", "names", "indices", "order"],
)
def test_a_folder_per_class(folders, labels):
    names = sorted(f"{folder}/x.png" for folder in folders)
    classes = Classes((), 11) if folders == ("3", "10") else CLASSES
    found = examples.from_folders([*names, "loose.png", "notes.txt"], classes)
    expected = dict(zip(folders, labels, strict=True))
    assert {one.name.partition("/")[0]: one.label for one in found.examples} == expected
    assert "1 images are in no folder of a class: loose.png" in found.notes


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.png"], "no folder of --images holds an image"),
        (["x/a.png", "y/a.png"], "2 folders for 4 classes, and none has the name of one: x, y"),
    ],
    ids=["none", "too few"],
)
def test_folders_that_are_no_classes(names, message):
    with pytest.raises(UsageError) as raised:
        examples.from_folders(names, CLASSES)
    assert message in str(raised.value)


def test_files_below_a_folder(tmp_path):
    for name in ("b/2.png", "b/.hidden/1.png", "a/1.png", "é\n.png", "b/._2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "b" / "around").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    assert examples.files_below(tmp_path) == ["a/1.png", "b/2.png", "linked/1.png", "é\n.png"]


# Shards


MANY = tuple(Example(f"{index:03}.png", index // 10) for index in range(100))


def test_shards_are_all_images_once():
    shards = [examples.sharded(MANY, (number, 3)) for number in (1, 2, 3)]
    assert sorted((one for shard in shards for one in shard), key=lambda one: one.name) == [*MANY]
    assert [len(shard) for shard in shards] == [34, 33, 33]
    assert all({one.label for one in shard} == set(range(10)) for shard in shards)


@pytest.mark.parametrize(("limit", "count"), [(None, 100), (500, 100), (20, 20), (1, 1)])
def test_a_limit_takes_of_every_class(limit, count):
    chosen = examples.spread(MANY, limit)
    assert len(set(chosen)) == len(chosen) == count
    assert {one.label for one in chosen} == set(range(min(count, 10)))


@pytest.mark.parametrize(
    ("text", "shard"), [("1/1", (1, 1)), ("2/4", (2, 4)), ("0/4", None), ("5/4", None), ("2", None)]
)
def test_the_option_of_shards(text, shard):
    if shard:
        assert examples.shard_of(text) == shard
    else:
        with pytest.raises(UsageError, match="--shard must be I/N"):
            examples.shard_of(text)


# The file of results


SETTING = Setting("5f", "class", {"resize": "warp"}, "e0", 6, 2, ("tench", "crane", "otter"))
SIX = tuple(Example(f"{index}.png", index % 3) for index in range(6))


def record(example, *top):
    return Record(example.name, example.label, top or (example.label, 0))


def lost(example):
    return Record(example.name, example.label, (), "no image")


def opened(path, setting=SETTING, shard=(1, 1), known=SIX, force=False):
    return ResultsFile(path, setting, shard, known, force)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.validation.json"


def test_results_come_image_by_image_and_end_as_one_document(path):
    with opened(path) as file:
        file.add([record(SIX[0]), lost(SIX[1])])
        lines = file.partial.read_text().splitlines()
        assert [json.loads(line).get("name") for line in lines] == [None, "0.png", "1.png"]
        assert not path.exists()
        file.add([record(one) for one in SIX[2:]])
        file.runs.append({"images": 6, "seconds": 2.0, "images_per_second": 3.0})
        file.finish(summary.summary(file.results()))
    assert sorted(path.parent.iterdir()) == [path]
    document = json.loads(path.read_text())
    assert document["summary"]["accuracy"] == {"1": 1.0, "2": 1.0}
    assert document["setting"]["model"] == "5f"
    assert [image["name"] for image in document["images"]] == [one.name for one in SIX]
    assert results.load(path) == Results(SETTING, (1, 1), file.records, file.runs)


@pytest.mark.parametrize("torn", [b"", b'{"name": "2.pn', b'{"name"'], ids=["whole", "cut", "head"])
def test_a_second_run_goes_on(path, torn):
    with opened(path) as file:
        file.add([record(SIX[0]), lost(SIX[1])])
    whole = file.partial.read_bytes()
    file.partial.write_bytes(whole + torn)
    with opened(path) as file:
        assert [*file.records] == ["0.png"]
        assert file.partial.read_bytes() == whole
        file.add([record(SIX[1])])
    with opened(path) as file:
        assert file.records == {one.name: record(one) for one in SIX[:2]}


def test_of_a_run_that_is_done_only_unreadable_images_are_tried_again(path):
    with opened(path) as file:
        file.add([lost(SIX[0]), *(record(one) for one in SIX[1:])])
        file.runs.append({"images": 6, "seconds": 2.0, "images_per_second": 3.0})
        file.finish({})
    with opened(path) as file:
        assert sorted(file.records) == [one.name for one in SIX[1:]]
        assert len(file.runs) == 1
        file.add([record(SIX[0])])
    with opened(path) as file:
        assert len(file.records) == 6


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"setting": replace(SETTING, model="a1")}, "the model"),
        ({"setting": replace(SETTING, through="tflite", top=3)}, "--through, --top"),
        ({"setting": replace(SETTING, preprocessing={})}, "the preprocessing"),
        ({"setting": replace(SETTING, images="e1")}, "the images or their labels"),
        ({"shard": (1, 2)}, "--shard"),
        ({"known": SIX[1:]}, "the images or their labels"),
    ],
    ids=["model", "options", "preprocessing", "images", "shard", "other images"],
)
@pytest.mark.parametrize("done", [False, True], ids=["partial", "done"])
def test_results_of_something_else_are_left_alone(path, changes, differs, done):
    with opened(path) as file:
        file.add([record(one) for one in SIX])
        if done:
            file.finish({})
    before = {each: each.read_bytes() for each in path.parent.iterdir() if each.stat().st_size}
    with pytest.raises(UsageError) as raised:
        opened(path, **changes)
    assert f"results of something else, what differs: {differs} (" in str(raised.value)
    assert {each: each.read_bytes() for each in before} == before
    with opened(path, **changes, force=True) as file:
        assert not file.records and not path.exists()


def test_a_run_that_could_read_nothing_is_in_nobodys_way(path):
    with opened(path) as file:
        file.add([lost(SIX[0])])
    with opened(path, shard=(1, 2)) as file:
        file.add([record(SIX[0])])
        assert len(file.partial.read_text().splitlines()) == 2


def test_two_runs_do_not_write_one_file(path):
    with opened(path) as file:
        file.add([record(SIX[0])])
        with pytest.raises(UsageError, match="another run is writing these results"):
            opened(path, force=True)
        file.add([record(SIX[1])])
    with opened(path) as file:
        assert len(file.records) == 2


def test_a_run_without_an_image_leaves_nothing(path):
    with opened(path):
        pass
    assert not [*path.parent.iterdir()]


def broken(**changes):
    head = {"format": results.FORMAT, "version": 1, "setting": SETTING.document()}
    return json.dumps({**head, "shard": [1, 1], "runs": [], "images": [], **changes}).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x81", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[1]", "a JSON object was expected"),
        (b"{}", "they do not say that they are"),
        (broken(version=9), "they have version 9, not 1"),
        (broken(setting=[]), "their setting is not whole"),
        (broken(setting={**SETTING.document(), "top": "5"}), "their setting is not whole"),
        (broken(setting={**SETTING.document(), "more": 1}), "their setting is not whole"),
        (broken(shard=[2, 1]), "their setting is not whole"),
        (broken(shard=[1]), "their setting is not whole"),
        (broken(images={}), "they have no images"),
        (broken(images=[3]), "image 0 of them is not whole"),
        (broken(images=[{"name": "a", "label": -1, "top": [0]}]), "image 0 of them is not whole"),
        (broken(images=[{"name": "a", "label": 1, "top": "01"}]), "image 0 of them is not whole"),
        (broken(images=[{"name": "a", "label": 1}]), "image 0 of them is not whole"),
        (broken(runs=[{}]), "their runs are not whole"),
    ],
)
def test_results_that_are_none(path, content, message):
    path.write_bytes(content)
    with pytest.raises(MalformedModel) as raised:
        results.load(path)
    assert message in str(raised.value)


# Figures


def figures(*records, labels=("tench", "crane", "otter"), top=2):
    setting = replace(SETTING, labels=labels, count=len(records), top=top)
    return summary.summary(Results(setting, (1, 1), {one.name: one for one in records}))


def test_the_figures():
    found = figures(
        Record("a", 0, (0, 1)),
        Record("b", 0, (1, 0)),
        Record("c", 0, (1, 2)),
        Record("d", 1, (1, 0)),
        Record("e", 2, (1, 2)),
        Record("f", 2, (), "it is empty"),
    )
    assert found["images"] == 5 and found["classes"] == 3
    assert found["accuracy"] == {"1": 2 / 5, "2": 4 / 5}
    assert found["right"] == {"1": 2, "2": 4}
    assert found["unreadable"] == [{"name": "f", "reason": "it is empty"}]
    assert found["confusions"] == [
        {"label": "tench", "predicted": "crane", "images": 2},
        {"label": "otter", "predicted": "crane", "images": 1},
    ]
    assert found["worst_classes"] == [
        {"label": "otter", "images": 1, "accuracy": 0.0},
        {"label": "tench", "images": 3, "accuracy": 1 / 3},
    ]


def test_without_labels_classes_are_numbers():
    found = figures(Record("a", 7, (3, 1)), labels=(), top=1)
    assert found["confusions"] == [{"label": "7", "predicted": "3", "images": 1}]
    assert found["accuracy"] == {"1": 0.0}


def test_images_none_of_which_could_be_read():
    with pytest.raises(UsageError, match="none of the 2 images could be read: it is empty, torn"):
        figures(Record("a", 0, (), "torn"), Record("b", 0, (), "it is empty"))


# Merging


def parts(tmp_path, count=3, of=6):
    """Results of shards, each in a file."""
    setting = replace(SETTING, count=of)
    files = []
    for number in range(1, count + 1):
        mine = examples.sharded(SIX, (number, count))
        known = {one.name: record(one) for one in mine}
        path = tmp_path / f"part-{number}.json"
        run = {"images": len(mine), "seconds": 1.0, "images_per_second": 5.0 * number}
        results.write(path, Results(setting, (number, count), known, [run]), {})
        files.append(path)
    return files


def changed(path, **changes):
    document = json.loads(path.read_text())
    document.update(changes)
    path.write_text(json.dumps(document))


def merge(files, out, *options):
    return worker.main(["--merge", *map(str, files), f"--results={out}", *options])


def test_merged_results_are_those_of_one_run(tmp_path):
    files = parts(tmp_path)
    assert merge(files[::-1], tmp_path / "all.json") == 0
    whole = results.load(tmp_path / "all.json")
    assert whole.shard == (1, 1) and whole.setting == SETTING
    assert whole.records == {one.name: record(one) for one in SIX}
    assert sorted(run["images_per_second"] for run in whole.runs) == [5, 10, 15]
    with opened(tmp_path / "all.json") as file:
        assert len(file.records) == 6


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda files: files.pop(1), "shards are missing: 2/3"),
        (lambda files: files.append(files[0]), "shards are given twice: 1/3"),
        (
            lambda files: changed(files[2], setting={**SETTING.document(), "model": "a1"}),
            "cannot be merged, what differs: the model",
        ),
        (
            lambda files: changed(files[2], shard=[3, 4]),
            "cannot be merged, what differs: the number of shards",
        ),
        (
            lambda files: changed(files[1], images=json.loads(files[0].read_text())["images"]),
            "images of another shard are in this one: 0.png, 3.png",
        ),
        (
            lambda files: changed(files[1], images=[]),
            "all shards have 6 images, these have 4",
        ),
        (
            lambda files: files[0].write_bytes(broken().replace(b', "images": []', b"") + b"\n{}"),
            "this validation is not done",
        ),
    ],
    ids=["missing", "twice", "model", "count", "overlap", "too few", "not done"],
)
def test_what_cannot_be_merged(tmp_path, capsys, spoil, message):
    files = parts(tmp_path)
    spoil(files)
    assert merge(files, tmp_path / "all.json") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "all.json").exists()


# Preprocessing that is given


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset(name):
    images = preset.given(name)
    assert images["size"] == (256, 256) and images["channels"] == "bgr" and images["crop"] is None
    assert images["mean"].shape == (3,) and images["mean"].min() > 100


def test_a_file_of_preprocessing(tmp_path):
    mean = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    np.save(tmp_path / "mean.npy", mean)
    file = tmp_path / "own.toml"
    file.write_text(
        'resize = "warp"\nsize = [4, 5]\ncrop = [2, 3]\nscale = 0.5\nmean = "mean.npy"\n'
        'labels = "any.txt"\n'
    )
    images = preset.given(str(file))
    assert np.array_equal(images.pop("mean"), mean.transpose(1, 2, 0))
    assert images == {
        "resize": "warp",
        "size": (4, 5),
        "crop": (2, 3),
        "channels": "bgr",
        "scale": 0.5,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=", "this is not TOML"),
        ("size = 4\ncrop = 5", "no preprocessing is told: crop (5, 5) is larger than size (4, 4)"),
        ('resize = "warp"', "no preprocessing is told: resize is 'warp', and size None"),
        ("size = 4\nmean = [1, 2]", "the mean has shape (2,), images have 3 channels"),
        ('size = 4\nmean = "mean.binaryproto"', "a mean image is read from .npy alone here"),
        ('size = 4\nmean = "text.npy"', "not an npy file"),
        ('size = 4\nmean = "flat.npy"', "a mean image is numbers of shape (C, H, W)"),
    ],
)
def test_preprocessing_that_is_none(tmp_path, text, message):
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "flat.npy", np.zeros(3))
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises((MalformedModel, UsageError)) as raised:
        preset.given(str(file))
    assert message in str(raised.value)


def test_a_preset_that_is_not_there():
    with pytest.raises(UsageError, match="no such preset or file .the presets: alexnet, "):
        preset.given("alexnett")


@pytest.mark.parametrize(("text", "crop"), [("227", (227, 227)), ("4,5", (4, 5)), ("0", None)])
def test_the_option_of_the_crop(text, crop):
    if crop:
        assert preset.crop_of(text) == crop
    else:
        with pytest.raises(UsageError, match="--crop must be N or H,W"):
            preset.crop_of(text)


# The command


def call(capfd, *argv):
    with pytest.raises(SystemExit) as stopped:
        orchestrate.main([str(argument) for argument in argv])
    out, err = capfd.readouterr()
    return stopped.value.code, out, err


def test_merge_on_the_command_line(tmp_path, capfd):
    files = parts(tmp_path)
    whole = tmp_path / "all.json"
    code, out, err = call(capfd, "validate", "merge", *files, "-o", whole, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["accuracy"] == {"1": 1.0, "2": 1.0} and document["images"] == 6
    assert document["out"] == str(whole)
    code, _, err = call(capfd, "validate", "merge", *files, "-o", whole)
    assert code == 2 and f"{whole}: this exists already" in err
    code, _, err = call(capfd, "validate", "merge", *files, "-o", files[0], "--force")
    assert code == 2 and "the output would replace an input" in err


def test_what_a_terminal_would_obey_is_escaped(tmp_path, capfd):
    (file,) = parts(tmp_path, count=1)
    images = json.loads(file.read_text())["images"]
    images[0] = {"name": "0\x1b[31m.png", "label": 0, "unreadable": "not\x1b]0;t\x07 one"}
    images[1] = {**images[1], "top": [2, 1]}
    labels = ["tench", "cr\x1b[31mane", "ot\nter"]
    changed(file, images=images, setting={**SETTING.document(), "labels": labels})
    code, out, err = call(capfd, "validate", "merge", file, "-o", tmp_path / "all.json")
    assert code == 0, err
    assert "\\x1b[31m.png" in out and "cr\\x1b[31mane" in out and "ot\\nter" in out
    assert not {"\x1b", "\x07"} & set(out + err)


@pytest.mark.parametrize(
    ("model", "argv", "message"),
    [
        ("empty", ["--images", "."], "a converted model was expected, a folder that holds names"),
        ("model", ["--images", "none"], "none: a folder of images was expected"),
        ("model", ["--images", ".", "--labels", "none"], "none: a file was expected"),
        ("model", ["--images", ".", "--results", "empty"], "a file is to be written"),
        ("model", ["--images", ".", "--through", "pb"], "--through must be class or saved_model"),
        ("model", ["--images", ".", "--top", "0"], "--top must be at least 1, not 0"),
        ("model", ["--images", ".", "--shard", "3/2"], "--shard must be I/N"),
        ("model", ["--images", ".", "--preset", "vgg61"], "no such preset or file"),
        ("model", [], "Missing option '--images'"),
    ],
)
def test_usage_errors(tmp_path, monkeypatch, capfd, model, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "names.json").write_text("{}")
    code, _, err = call(capfd, "validate", model, *argv)
    assert code == 2
    assert message in err
    assert sorted(tmp_path.iterdir()) == [tmp_path / "empty", tmp_path / "model"]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "net.validation.json"),
        ({"through": "class", "shard": "1/1"}, "net.validation.json"),
        ({"through": "tflite"}, "net.tflite.validation.json"),
        ({"shard": "2/4"}, "net.2of4.validation.json"),
        ({"through": "bytes", "shard": "2/4"}, "net.bytes.2of4.validation.json"),
    ],
)
def test_results_lie_beside_the_model(tmp_path, given, name):
    request = validation.Request(
        tmp_path / "net",
        tmp_path,
        None,
        None,
        **{"through": None, "shard": None, **given},
        force=False,
        others={},
    )
    assert request.results_file() == tmp_path / name


def test_the_driver_tells_how_to_go_on(tmp_path, monkeypatch):
    (tmp_path / "names.json").write_text("{}")
    partial = tmp_path.parent / f"{tmp_path.name}.validation.json.partial"

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(validation, "run_job", interrupted)
    request = validation.Request(tmp_path, tmp_path, None, None, None, None, False, {})
    show = display.Display(False, False)
    with pytest.raises(KeyboardInterrupt):
        validation.validate(request, Options(), show)
    partial.write_text("{}\n")
    with pytest.raises(validation.Interrupted) as raised:
        validation.validate(request, Options(), show)
    partial.unlink()
    assert raised.value.exit_code == 130
    assert f"what is done is in {partial} (the same command goes on" in str(raised.value)


def test_how_it_goes_is_shown_beside_the_bar():
    shown = display.Display(progress=False)
    shown.progress("validate", "score", 3, 10, "64.0% top-1, 31 images/s\x1b[31m")
    stream = io.StringIO()
    display.console(stream).print(display.grid(shown.rows()))
    assert "3/10" in stream.getvalue() and "64.0% top-1, 31 images/s\\x1b" in stream.getvalue()
    shown.progress("validate", "score", 10, 10)
    shown.done("validate")
    display.console(stream).print(display.grid(shown.rows()))
    assert stream.getvalue().count("images/s") == 1


def test_the_shards_of_a_cluster_are_told_as_one_run(tmp_path, monkeypatch):
    accuracy = {"accuracy": {"1": 0.75}, "images": 4, "unreadable": []}
    told = {**accuracy, "confusions": [], "worst_classes": []}
    found = {"results": "all.json", "summary": told, "runs": []}
    monkeypatch.setattr(validation, "score_all", lambda *args: time.sleep(0.2) or [])
    monkeypatch.setattr(validation, "run_job", lambda *args, **options: found)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "names.json").touch()
    request = validation.Request(
        tmp_path / "net", tmp_path, None, tmp_path / "all.json", None, None, False, {}
    )
    cluster = Cluster("tcp://localhost:1")
    outcome = validation.validate(request, Options(), display.Display(False, False), 2, cluster)
    assert outcome.title == f"{tmp_path / 'net'}: 75.0% top-1, of 4 images"
    assert outcome.document["seconds"] >= 0.2

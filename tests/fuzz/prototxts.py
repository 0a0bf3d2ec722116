"""Mutants of prototxts, and the readers of stage 1 that are held to them.

A mutant is a text whose tokens, fields and messages were changed, moved between files, renamed and
repeated, so that most still are text format. One in eight is damaged bytewise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

from schemas.layers import registry
from stage_extract import descriptors, network, preprocessing, prototxt, upgrade
from tests.fuzz import engine, interesting

TOKEN = re.compile(
    r"""\#[^\n]*|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[A-Za-z_]\w*|-?[0-9.][\w.+-]*|\S"""
)
WORD = re.compile(r"[A-Za-z_]\w*\Z")
REALS = ("0.0", "2.0", "2.5", "-1.5", "1e400", "-1e400", "1e-400", "nan", "-inf", ".5f", "1.f")
ODD_NUMBERS = ("0x10", "010", "08", "0xg", "1e", "1.2.3", "-", "--1", "9" * 400, "9" * 401)
ODD_STRINGS = (r'"\x41\101\u00e9"', r'"\ud83d\ude00"', r'"\q"', r'"\U00110000"', "\"a\" 'b'", '"')
STAND_INS = ("{", "}", "<", ">", "[", "]", ":", ",", ";", "-", "#", "{}", "[]", "/", "\0", "\u00e9")


class Prototxts:
    """Text nets of every age, read and built as stage 1 does it."""

    name = "prototxt"
    modules: tuple[str, ...] = (
        "stage_extract/tokens.py",
        "stage_extract/prototxt.py",
        "stage_extract/upgrade.py",
        "stage_extract/transforms.py",
    )
    memory = engine.BYTES

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._seeds = [TOKEN.findall(text.decode("latin-1")) for text in texts]
        pool = descriptors.pool()
        messages = ["NetParameter", "LayerParameter", "V1LayerParameter", "V0LayerParameter"]
        layer = pool.FindMessageTypeByName("caffe.LayerParameter")
        messages += [each.message_type.name for each in layer.fields if each.message_type]
        self._fields = sorted(
            {each.name for name in messages for each in descriptors.message(name).fields}
        )
        self._types = sorted({type_ for type_, _ in registry.registered()})
        self._types += [*upgrade.V1_TYPES, *upgrade.V0_TYPES]
        self._options = [
            network.Options(),
            network.Options(keep_losses=True),
            network.Options(phase="TRAIN", level=1, stages=("deploy",)),
            network.Options(dialects=("ssd",)),
        ]

    def mutant(self, rng: Random) -> bytes:
        """A mutant of one of the seeds."""
        tokens = list(rng.choice(self._seeds))
        if rng.random() < 0.125:
            return interesting.damaged(" ".join(tokens).encode("latin-1"), rng)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            self._change(tokens, rng)
        text = "".join(token + ("\n" if token[0] == "#" else " ") for token in tokens)
        return self._finish(text, rng).encode("latin-1", "replace")

    def read(self, data: bytes, past: Callable[[], None]) -> None:
        """Parses the text, upgrades it, builds its graph and resolves its preprocessing.

        It is past the first layer when the whole text was read and describes at least one.
        """
        message = prototxt.parse(data, "mutant.prototxt")
        if message.fields.get("layer") or message.fields.get("layers"):
            past()
        upgraded = upgrade.upgrade(message)
        for layer in upgraded.fields["layer"]:
            assert layer.document().keys() == layer.fields.keys()
        built = network.build(upgraded, self._options[len(data) % len(self._options)])
        assert built.net.layers
        told = preprocessing.Told((), (), ())
        preprocessing.resolve(told, (), built.net, built.preprocessing, [])

    def _change(self, tokens: list[str], rng: Random) -> None:
        if not tokens:
            tokens.append(rng.choice(self._fields))
        at = rng.randrange(len(tokens))
        how = rng.randrange(20)
        if how < 8:
            self._substitute(tokens, at, rng)
        elif how < 14:
            start, end = field_at(tokens, at)
            copy = tokens[start:end]
            if how == 8:
                del tokens[start:end]
            elif how == 9:
                tokens[start:start] = copy * rng.choice((1, 1, 1, 3, 30))
            elif how == 10:
                del tokens[start:end]
                place = rng.randrange(len(tokens) + 1)
                tokens[place:place] = copy
            elif how == 11:  # one of another file in its place
                other = rng.choice(self._seeds)
                begin, stop = field_at(other, rng.randrange(len(other)))
                tokens[start:end] = other[begin:stop]
            elif how == 12:
                depth = rng.choice((1, 1, 2, 98, 99, 101, 5000))
                name = rng.choice(self._fields)
                tokens[start:end] = [name, "{"] * depth + copy + ["}"] * depth
            else:
                other = rng.choice(self._seeds)
                begin, stop = field_at(other, rng.randrange(len(other)))
                tokens[end:end] = other[begin:stop]
        elif how == 14:
            del tokens[at]
        elif how == 15:
            tokens.insert(at, rng.choice(tokens))
        elif how == 16:
            tokens[at] = rng.choice(STAND_INS)
        elif how == 17:
            tokens.insert(at, rng.choice(("# a comment", "\n", "\t\r\n", ",", ";", ":")))
        elif how == 18:
            tokens.insert(at, f"{rng.choice(self._fields)}: {self._value(rng)}")
        else:
            del tokens[rng.randrange(len(tokens)) :]

    def _substitute(self, tokens: list[str], at: int, rng: Random) -> None:
        """Puts another token of the same kind in the place of one, mostly of a value."""
        values = [i for i in range(at, min(at + 12, len(tokens))) if tokens[i - 1] == ":"]
        at = rng.choice(values) if values and rng.random() < 0.8 else at
        token = tokens[at]
        if token[0] in "\"'":
            # Names within the file, so that layers are wired up in new ways.
            names = [each for each in tokens if each[0] == token[0]]
            tokens[at] = rng.choice(names) if rng.random() < 0.6 else self._string(rng)
        elif token[0].isdigit() or token[0] in "-.":
            tokens[at] = self._number(rng)
        elif WORD.match(token):
            words = [each for each in rng.choice(self._seeds) if WORD.match(each)]
            tokens[at] = rng.choice(words if words and rng.random() < 0.5 else self._fields)
        else:
            tokens[at] = rng.choice(STAND_INS)

    def _number(self, rng: Random) -> str:
        how = rng.random()
        if how < 0.5:
            return str(rng.choice((0, 1, 2, 3, 4, 5, 7, 8, 16)))
        if how < 0.9:
            return str(interesting.number(rng))
        return rng.choice(REALS if how < 0.97 else ODD_NUMBERS)

    def _string(self, rng: Random) -> str:
        how = rng.random()
        if how < 0.6:
            return f'"{rng.choice(self._types)}"'
        if how < 0.9:
            return f'"{interesting.name(rng).decode("latin-1")}"'
        return rng.choice(ODD_STRINGS)

    def _value(self, rng: Random) -> str:
        return rng.choice(
            (self._number(rng), self._string(rng), "true", "MAX", "[1, 2]", "{ }", "[{ }, < >]")
        )

    def _finish(self, text: str, rng: Random) -> str:
        how = rng.randrange(60)
        if how == 0:
            return "\u00ef\u00bb\u00bf" + text
        if how == 1:
            return text.replace(" ", "\r\n")
        if how == 2:
            return text.replace("{", "<").replace("}", ">")
        if how == 3:
            return text.replace("layer {", "layer: {").replace(": ", ":")
        return text


def field_at(tokens: Sequence[str], at: int) -> tuple[int, int]:
    """Where the field starts and ends that token `at` belongs to: a value, or a whole message."""
    while at > 0 and not WORD.match(tokens[at]):
        at -= 1
    if at > 0 and tokens[at - 1] == ":":
        at = max(0, at - 2)
    end = at + 1
    if tokens[end : end + 1] == [":"]:
        end += 1
    if tokens[end : end + 1] != ["{"]:
        return at, min(end + 1, len(tokens))
    depth = 0
    while end < len(tokens):
        depth += {"{": 1, "}": -1}.get(tokens[end], 0)
        end += 1
        if depth == 0:
            break
    return at, end

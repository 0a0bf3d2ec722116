"""docs/troubleshooting.md has every message, where its subject is, and no other."""

from __future__ import annotations

import ast
import errno
import os
import re
from fnmatch import fnmatch

import pytest

from tests import messages
from tests.paths import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
_SECTION = re.compile(
    r"^## (?P<title>.+)\n<!--(?P<modules>[^>]*)-->\n(?P<text>(?:(?!^## ).*\n)*)", re.M
)
_ENTRY = re.compile(r"^(?:\*|\|) `([^`]+)`", re.M)


def system_messages():
    """What the system says of files, as `schemas.errors.cannot_use` has it."""
    files = (errno.ENOENT, errno.EISDIR, errno.EACCES)
    disks = (errno.ENOSPC, errno.EFBIG, errno.EROFS)
    texts = map(os.strerror, (*files, *disks))
    return {text[:1].lower() + text[1:] for text in texts}


@pytest.fixture(scope="module")
def page():
    """(title, patterns of modules, messages) of each section."""
    sections = [
        (found["title"], found["modules"].split(), _ENTRY.findall(found["text"]))
        for found in _SECTION.finditer(PAGE.read_text("utf-8"))
    ]
    assert len(sections) > 10
    return sections


@pytest.fixture(scope="module")
def sources():
    return messages.collected()


def test_every_message_is_on_the_page(page, sources):
    missing = []
    for message, modules in sorted(sources.items()):
        titles = [
            title
            for title, patterns, _ in page
            if any(fnmatch(module, pattern) for module in modules for pattern in patterns)
        ]
        if not any(message in entries for title, _, entries in page if title in titles):
            where = " or ".join(map(repr, titles)) or "no section: name the module in one's comment"
            missing.append(f"  `{message}`\n    of {', '.join(sorted(modules))}; into {where}")
    assert not missing, "add to docs/troubleshooting.md:\n" + "\n".join(missing)


def test_the_page_has_no_other_message(page, sources):
    known = set(sources) | system_messages()
    stale = [
        f"  {title}: `{message}`"
        for title, _, entries in page
        for message in entries
        if message not in known
    ]
    assert not stale, "remove from docs/troubleshooting.md:\n" + "\n".join(stale)


def test_a_section_has_a_message_once(page):
    for title, _, entries in page:
        assert sorted(entries) == sorted(set(entries)), title


def test_every_module_that_a_section_names_is_there(page):
    modules = [*messages.sources()]
    for title, patterns, _ in page:
        for pattern in patterns:
            assert any(fnmatch(module, pattern) for module in modules), (title, pattern)


def test_the_words_of_messages_that_are_told_by_hand():
    """`messages.ELSEWHERE` says what the modules say."""
    for templates in messages.ELSEWHERE.values():
        for template, module in templates.items():
            texts = [
                str(node.value)
                for node in ast.walk(messages.sources()[module])
                if isinstance(node, ast.Constant)
            ]
            for words in filter(None, (part.strip(" :(),") for part in template.split("…"))):
                assert any(words in text for text in texts), (template, module)


def test_the_collector_follows_messages(tmp_path):
    (tmp_path / "schemas").mkdir()
    (tmp_path / messages.ERRORS).write_text(
        "class MalformedModel(ConversionError): ...\nclass UsageError(ConversionError): ...\n"
    )
    (tmp_path / "orchestrate.py").write_text(
        "class Reader:\n"
        "    def damage(self, at, message):\n"
        "        return MalformedModel(message, at)\n"
        "    def cut(self, at, message):\n"
        "        if at:\n"
        "            message = 'cut off: ' + message\n"
        "        return self.damage(at, message)\n"
        "    def read(self, notes):\n"
        "        text = f'{self} has {1} bytes'\n"
        "        notes.append('a note of ' + str(self))\n"
        "        raise self.cut(0, text if self else 'nothing')\n"
        "    def other(self):\n"
        "        raise UsageError('one {} two'.format(3), hint='not this')\n"
        "    def why(self):\n"
        "        raise UsageError(message=reason(self))\n"
        "    def unseen(self):\n"
        "        raise UsageError(self.text)\n"
        "def reason(of):\n"
        "    return f'because {of}'\n"
    )
    collector = messages._Collector(messages.sources(tmp_path))
    collector.run()
    assert set(collector.found) == {
        "cut off: …",
        "… has … bytes",
        "nothing",
        "a note of …",
        "one … two",
        "because …",
    }
    assert collector.unread == {("orchestrate.py", "self.text")}

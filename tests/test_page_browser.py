"""report.html in a headless Chromium: what a person sees, finds, clicks and types."""

from __future__ import annotations

import os
import shutil

import pytest

from tests import pages
from tests.nets import inputs, layer, net

pytestmark = pytest.mark.slow

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = (1280, 860), (390, 844)

MARKUP = "</script><img src=x onerror=pwned()>"
HOSTILE = [MARKUP, "\u202egnp.exe", "\u05d0\u05d1\u05d2", "w" * 10_000, "<b>bold</b>&amp;"]


@pytest.fixture(scope="module")
def browser():
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip("not run: no chromium")
    api = pytest.importorskip("playwright.sync_api", reason="not run: no playwright")
    with api.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=executable, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def see(browser):
    """Opens a page; afterwards nothing may have been said on the console, or asked for."""
    opened, said, asked = [], [], []

    def open_(file, size=DESKTOP, scheme="light", touch=False):
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=touch
        )
        opened.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file.as_uri())
        return tab

    yield open_
    for context in opened:
        context.close()
    assert said == []
    assert [url for url in asked if not url.endswith("/report.html")] == []


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    content = pages.block()
    return pages.page(tmp_path_factory.mktemp("block"), content)


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    content = pages.block()
    errors = {"right": 0.2, "sum": 0.3, "prob": 2e-4}
    culprit = {"layer": "right", "type": "Convolution", "line": 8, "cause": "swapped channels"}
    report = pages.checked(content, errors, culprit=culprit)
    return pages.page(tmp_path_factory.mktemp("failed"), content, report)


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    content = pages.residual(50)
    report = pages.checked(content, pages.grown(content))
    return pages.page(tmp_path_factory.mktemp("deep"), content, report)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    text, before = [inputs(data=(1, 2, 3, 4))], "data"
    for name in HOSTILE:
        text.append(layer("Power", [before], [name], "power_param { scale: 2 }", name=name))
        before = name
    content = net(*text, name=MARKUP)
    report = pages.checked(content, dict.fromkeys(HOSTILE[2:], 0.5))
    report["notes"] = HOSTILE
    return pages.page(tmp_path_factory.mktemp("hostile"), content, report)


def chosen(tab):
    return tab.locator("#details article h3 bdi").all_inner_texts()


def search(tab, words):
    tab.locator("#find").fill(words)
    tab.locator("#found li").first.wait_for()
    tab.locator("#find").press("Enter")


def in_view(tab, selector):
    """Whether the middle of an element is inside the view of the net."""
    inner, outer = tab.locator(selector).bounding_box(), tab.locator("#view").bounding_box()
    x, y = inner["x"] + inner["width"] / 2, inner["y"] + inner["height"] / 2
    return (
        outer["x"] <= x <= outer["x"] + outer["width"]
        and outer["y"] <= y <= outer["y"] + outer["height"]
    )


def test_the_verdict_is_on_the_first_screen(see, block):
    tab = see(block)
    assert tab.locator("h2").first.inner_text() == "Verified"
    assert tab.locator("h2").first.bounding_box()["y"] < DESKTOP[1] / 2


def test_a_layer_is_found_by_its_name(see, deep):
    tab = see(deep)
    search(tab, "res37_branch2b")
    assert chosen(tab) == ["res37_branch2b", "bn37_branch2b", "res37_branch2b_relu"]
    assert in_view(tab, ".box.chosen")
    assert "res37_branch2b" in tab.locator("#told").inner_text()


def test_a_layer_within_a_box_is_found(see, block):
    tab = see(block)
    search(tab, "stem_scale")
    assert tab.locator("#details article.found h3 bdi").inner_text() == "stem_scale"


def test_a_search_for_nothing_that_is_there_says_so(see, block):
    tab = see(block)
    tab.locator("#find").fill("no such layer")
    assert tab.locator("#found li").all_inner_texts() == [
        "No layer has this in its name, its type or its blobs."
    ]


def test_a_click_shows_details(see, block):
    tab = see(block)
    tab.locator(".box", has_text="right").click()
    assert chosen(tab) == ["right", "right_relu"]
    told = tab.locator("#details").inner_text()
    for said in ("x = self.convolution(x)", "1.0e-07", "16.2 k (16,200)", "right/0", "kernel_size"):
        assert said in told


def test_the_picture_is_walked_by_keys(see, block):
    tab = see(block)
    tab.locator(".box").first.focus()
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        tab.keyboard.press(key)
    assert chosen(tab) == ["left"]
    for key in ("ArrowRight", "Enter"):
        tab.keyboard.press(key)
    assert chosen(tab) == ["right", "right_relu"]
    tab.keyboard.press("End")
    tab.keyboard.press(" ")
    assert chosen(tab) == ["prob"]


@pytest.mark.parametrize("way", ["button", "key", "wheel"])
def test_it_zooms(see, block, way):
    tab = see(block)
    before = tab.locator(".box").first.bounding_box()["width"]
    if way == "button":
        tab.locator("#in").click()
    elif way == "key":
        tab.locator(".box").first.focus()
        tab.keyboard.press("+")
    else:
        tab.locator("#graph").hover()
        tab.keyboard.down("Control")
        tab.mouse.wheel(0, -100)
        tab.keyboard.up("Control")
    tab.wait_for_function(
        "before => document.querySelector('.box').getBoundingClientRect().width > before * 1.2",
        arg=before,
    )
    tab.locator("#fit").click()
    assert tab.locator(".box").first.bounding_box()["width"] == pytest.approx(before, rel=0.01)


def test_it_is_dragged_and_a_drag_is_no_click(see, block):
    tab = see(block)
    tab.locator("#view").scroll_into_view_if_needed()
    box = tab.locator(".box").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(x + 60, y + 40, steps=4)
    tab.mouse.up()
    moved = tab.locator(".box").first.bounding_box()
    assert (moved["x"] - box["x"], moved["y"] - box["y"]) == pytest.approx((60, 40), abs=2)
    assert chosen(tab) == []


def test_the_wheel_alone_scrolls_the_page(see, block):
    tab = see(block)
    tab.locator("#graph").hover()
    before = tab.evaluate("scrollY")
    tab.mouse.wheel(0, 200)
    tab.wait_for_function("before => scrollY > before + 100", arg=before)


def test_the_table_sorts_and_leads_to_the_net(see, block):
    tab = see(block)
    names = tab.locator("#layers tbody th bdi")
    tab.locator("#layers thead button", has_text="MACs").click()
    assert names.first.inner_text() == "left"
    assert tab.locator("#layers thead th[aria-sort]").inner_text().startswith("MACs")
    tab.locator("#layers thead button", has_text="MACs").click()
    assert names.first.inner_text() == "data"
    tab.locator("#layers thead button", has_text="Layer").click()
    assert names.all_inner_texts() == sorted(names.all_inner_texts())
    names.filter(has_text="pool").click()
    assert chosen(tab) == ["pool"]


def test_the_charts_tell_what_is_under_the_pointer_and_lead_to_it(see, block):
    tab = see(block)
    plot = tab.locator("#error-plot")
    plot.scroll_into_view_if_needed()
    wide = plot.bounding_box()["width"]
    plot.hover(position={"x": wide - 3, "y": 100})
    assert tab.locator("#error-told").inner_text().startswith("prob: 1.0e-07 (class)")
    plot.click(position={"x": wide - 3, "y": 100})
    assert chosen(tab) == ["prob"]


def test_a_failure_leads_to_the_layer(see, failed):
    tab = see(failed)
    assert tab.locator("h2").first.inner_text() == "Not verified"
    assert "swapped channels" in tab.locator(".failure").inner_text()
    assert tab.locator(".failure").bounding_box()["y"] < DESKTOP[1] / 2
    tab.locator(".failure .go").click()
    assert chosen(tab) == ["right", "right_relu"]
    assert "✕" in tab.locator(".box.chosen").text_content()


@pytest.mark.parametrize("name", ["block", "failed", "deep", "hostile"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_is_wider_than_the_screen(see, request, name, size):
    tab = see(request.getfixturevalue(name), size)
    tab.locator("#found").evaluate("list => list.closest('section').querySelector('.box')")
    for _ in range(2):
        assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]
        tab.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        search(tab, "a")


def test_on_a_phone_the_picture_begins_readable(see, deep):
    tab = see(deep, PHONE, touch=True)
    box = tab.locator(".box").first
    assert box.bounding_box()["width"] > 120
    assert in_view(tab, ".box >> nth=0")
    box.tap()
    assert chosen(tab) == ["data"]
    assert tab.locator("#map").is_visible()


def test_on_a_desktop_the_whole_net_is_seen_at_first(see, deep):
    tab = see(deep)
    assert in_view(tab, ".box >> nth=0")
    assert in_view(tab, ".box >> nth=-1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["block", "failed"])
def test_axe_finds_nothing(see, request, name, size, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="not run: no axe")
    tab = see(request.getfixturevalue(name), size, scheme)
    for prepare in (lambda: None, lambda: tab.locator("#find").fill("r"), lambda: search(tab, "r")):
        prepare()
        tab.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        found = axe.Axe().run(tab).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


def test_hostile_names_are_text(see, hostile):
    tab = see(hostile)
    assert tab.locator("img, b").count() == 0
    assert tab.locator("h1").inner_text() == MARKUP
    for name in HOSTILE:
        search(tab, name)
        assert tab.locator("#details article.found h3 bdi").text_content() == name
    assert tab.evaluate("typeof pwned") == "undefined"
    assert tab.locator("script").count() == 2


@pytest.mark.parametrize(
    ("attempt", "directive"),
    [
        ("fetch('https://localhost/').catch(() => {})", "connect-src"),
        ("new Image().src = 'https://localhost/x.png'", "img-src"),
        ("document.body.innerHTML = '<p onclick=1>'", "script-src-attr"),
    ],
)
def test_nothing_can_be_loaded(browser, block, attempt, directive):
    context = browser.new_context()
    tab = context.new_page()
    answered = []
    tab.goto(block.as_uri())
    tab.on("response", lambda response: answered.append(response.url))
    tab.evaluate(
        "window.refused = [];"
        "addEventListener('securitypolicyviolation', e => refused.push(e.effectiveDirective))"
    )
    tab.evaluate(attempt)
    tab.wait_for_function("directive => refused.includes(directive)", arg=directive)
    assert answered == []
    context.close()


def test_without_scripts_it_still_tells(browser, deep):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(deep.as_uri())
    assert tab.locator("h2").first.inner_text() == "Verified"
    assert tab.locator("#layers tbody tr").count() == 501
    assert not tab.locator("#find").is_visible()
    assert tab.locator(".box").first.is_visible()
    context.close()


def test_a_net_of_500_layers_opens_fast_and_is_small(see, deep):
    assert os.path.getsize(deep) < 5_000_000
    tab = see(deep)
    took = tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert 0 < took < 2000

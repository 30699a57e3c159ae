"""The page as people use it, in a real browser without a screen."""

import shutil

import numpy as np
import pytest
from PIL import Image


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PATIENCE = 120_000  # milliseconds: this may share its cores with other tests
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright drives the browser; it is not installed"
    )
    if BROWSER is None:
        pytest.skip("there is no browser here; on Debian, apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, page_address):
    """Open the page in a new window of a size, refusing whatever it asks of other servers."""
    contexts = []

    def open_page(size="desktop"):
        context = browser.new_context(viewport=SIZES[size], accept_downloads=True)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.asked_elsewhere, page.script_errors = [], []
        page.on("pageerror", lambda error: page.script_errors.append(str(error)))

        def check(route):
            page.asked_elsewhere.append(route.request.url)
            route.abort()

        page.route(lambda url: not url.startswith((page_address, "data:", "blob:")), check)
        page.goto(page_address)
        page.wait_for_selector("#encode")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def photo_path(small_photo, tmp_path):
    small_photo.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def upload(page, selector, path):
    page.locator(f"{selector} input[type=file]").set_input_files(str(path))


def draw_box(page):
    """Drag the mouse over the photo's middle."""
    page.get_by_label("Create box").click()
    box = page.locator("#annotator canvas").bounding_box()
    x, y, width, height = (box[name] for name in ("x", "y", "width", "height"))
    page.mouse.move(x + 0.4 * width, y + 0.3 * height)
    page.mouse.down()
    page.mouse.move(x + 0.5 * width, y + 0.5 * height, steps=3)
    page.mouse.move(x + 0.6 * width, y + 0.7 * height, steps=3)
    page.mouse.up()


def shown(page, selector):
    """Pixels of the pictures shown, as the browser has them."""
    page.wait_for_function(
        "selector => { const all = [...document.querySelectorAll(selector + ' img')];"
        " return all.length && all.every(image => image.complete && image.naturalWidth) }",
        arg=selector,
    )
    return page.evaluate(
        """selector => [...document.querySelectorAll(selector + ' img')].map(image => {
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            const context = canvas.getContext('2d');
            context.drawImage(image, 0, 0);
            return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
        })""",
        selector,
    )


def save(page, label, path):
    with page.expect_download() as download:
        page.locator(label).click()
    download.value.save_as(path)
    return path


def test_from_photo_to_file_to_picture(visit, photo_path, tmp_path, quick_decoder, elsewhere):
    asked_before = len(elsewhere)
    page = visit()
    upload(page, "#photo", photo_path)
    page.wait_for_selector("#annotator canvas")
    draw_box(page)
    page.get_by_role("slider", name="Fidelity of box 1").first.wait_for()
    page.locator("#caption input, #caption textarea").fill("a woman in a navy cap")
    page.locator("#encode").click()
    page.wait_for_selector("#download-file:not([disabled])")
    original, decoded = shown(page, "#encoded-view")
    assert np.abs(np.array(original) - np.asarray(Image.open(photo_path).convert("RGBA")).ravel()).mean() < 3
    file = save(page, "#download-file", tmp_path / "photo.rsic")
    picture = np.asarray(quick_decoder(file).images[0])
    assert (np.array(decoded).reshape(165, 203, 4)[..., :3] == picture).all()

    page.get_by_label("Show what is imagined").first.check()
    page.wait_for_function("old => document.querySelectorAll('#encoded-view img')[1].src.includes('overlay')")
    page.close()

    page = visit("phone")
    page.get_by_role("tab", name="Decode").click()
    upload(page, "#rsic-file", file)
    page.locator("#decode").click()
    page.wait_for_selector("#decoded-view img")
    assert (np.array(shown(page, "#decoded-view")[0]).reshape(165, 203, 4)[..., :3] == picture).all()
    assert page.locator("#decoded-caption input, #decoded-caption textarea").input_value() == "a woman in a navy cap"
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES["phone"]["width"]
    assert page.asked_elsewhere == [] and page.script_errors == [] and len(elsewhere) == asked_before


def test_errors_are_read_on_the_page(visit, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("no photo")
    page = visit()
    upload(page, "#photo", text)
    alert = page.get_by_test_id("toast-body")
    alert.wait_for()
    assert "text.jpg is not an image" in alert.inner_text() and "Traceback" not in page.content()


def test_a_tab_closed_in_mid_work(visit, photo_path):
    page = visit()
    upload(page, "#photo", photo_path)
    page.wait_for_selector("#annotator canvas")
    page.locator("#encode").click()
    page.close()
    page = visit()
    upload(page, "#photo", photo_path)
    page.wait_for_selector("#annotator canvas")
    page.locator("#encode").click()
    page.wait_for_selector("#download-file:not([disabled])")


@pytest.mark.parametrize("size", SIZES)
def test_the_keyboard_reaches_every_control(visit, size):
    """Tab goes through all that can be used, in the order in which it is read, and nothing lies over another."""
    page = visit(size)
    page.locator("#example").click()
    page.wait_for_selector("#annotator canvas")
    page.wait_for_function("document.querySelector('#annotator canvas').getBoundingClientRect().height > 50")
    # Gradio measures its rows of tabs on copies that nobody sees.
    controls = """[...document.querySelectorAll('button, input, textarea, [role=slider], [role=tab], a[href]')]
        .filter(control => control.checkVisibility({visibilityProperty: true}) && !control.disabled)
        .filter(control => !control.closest('.visually-hidden, [aria-hidden=true]'))
        .filter(control => control.getBoundingClientRect().width > 1)"""
    page.evaluate(f"window.controls = {controls}; document.body.focus()")
    reached = set()
    for _ in range(100):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("controls.indexOf(document.activeElement)"))
    names = page.evaluate(
        "controls.map(c => c.getAttribute('aria-label') || c.labels?.[0]?.innerText || c.innerText || c.type)"
    )
    # Of a row of tabs the arrow keys reach the others, and of a file chooser its button stands for its input.
    tabs = page.evaluate("controls.map(c => c.getAttribute('role') === 'tab')")
    missed = [name for i, name in enumerate(names) if not (i in reached or tabs[i] or name == "file")]
    assert "Encode" in names and missed == [], f"not reached: {missed}"
    covered = page.evaluate(
        """controls.filter(control => ['BUTTON', 'TEXTAREA'].includes(control.tagName)).filter(control => {
            control.scrollIntoView({block: 'center'});
            const box = control.getBoundingClientRect();
            const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
            return !(top && (control.contains(top) || top.closest('label')?.contains(control)));
        }).map(control => control.getAttribute('aria-label') || control.innerText)"""
    )
    assert covered == [], f"covered: {covered}"

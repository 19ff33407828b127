"""The page of `flowclf report` in a real browser: it fits, sorts, and is silent."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flowclf.config import make_config
from flowclf.report import write_report
from flowclf.runs import Run
from flowclf.settings import DataFacts

SHAPE = (1, 8, 8)
# β̃ to accuracy and bits/dim: neither sorts as text does.
RUNS = {0.5: (0.9, 10.5), 2: (0.98, None), 10: (1.0, 9.25)}
CELLS = "Array.from(document.querySelector('table').tBodies[0].rows, r => r.cells[{}].innerText)"
HEADS = "Array.from(document.querySelector('table').tHead.rows[0].cells, c => c.innerText)"
CLICK = "document.querySelector('table').tHead.rows[0].cells[{}].firstChild.click()"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of three runs that were never trained."""
    folder = tmp_path_factory.mktemp("runs")
    for beta, (accuracy, bits) in RUNS.items():
        run = Run(folder / f"a-rather-long-name-of-a-run-beta={beta}-seed=0")
        config = make_config("ib-inn", "digits", SHAPE, beta=beta)
        run.write_config(
            config, DataFacts(shape=SHAPE, levels=17, class_names=("0", "1"), samples=100)
        )
        test = {"accuracy": accuracy, "ece": 0.01, "bits_per_dim": bits, "more": beta}
        run.write_summary({"seconds": 1.0, "parameters": 5, "device": "cpu", "test": test})
        run.figures.mkdir()
        Image.new("RGB", (900, 300), "red").save(run.figures / "samples.png")
    out = folder / "report.html"
    write_report([folder], out)
    return out


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_fits_and_is_silent(
    browser: Any, page: Path, width: int, scheme: str, tmp_path: Path
) -> None:
    browser.show(width, scheme)
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.run("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    browser.wait("Promise.all(Array.from(document.images, i => i.decode()))")
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.run("Array.from(document.images).every(i => i.complete && i.naturalWidth)")
    assert browser.complaints() == []
    assert {url.partition(":")[0] for url in browser.requests()} <= {"file", "data"}
    assert len([url for url in browser.requests() if url.startswith("file:")]) == 1
    light = browser.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0] > 128")
    assert light == (scheme == "light")
    browser.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 20


def column(browser: Any, title: str) -> int:
    heads: list[str] = browser.run(HEADS)
    return next(k for k, head in enumerate(heads) if head.strip().startswith(title))


def test_a_heading_sorts_by_numbers_and_back_with_what_is_missing_last(
    browser: Any, page: Path
) -> None:
    browser.show(1600, "light")
    browser.open(page)
    bits = column(browser, "bits/dim")
    values = lambda: [v.strip("★ ") for v in browser.run(CELLS.format(bits))]  # noqa: E731
    assert values() == ["10.50", "–", "9.25"]
    browser.run(CLICK.format(bits))
    assert values() == ["9.25", "10.50", "–"]
    browser.run(CLICK.format(bits))
    assert values() == ["10.50", "9.25", "–"]
    sorts = "Array.from(document.querySelectorAll('[aria-sort]'), e => e.ariaSort)"
    assert browser.run(sorts) == ["descending"]


def test_the_first_click_brings_the_best_to_the_top(browser: Any, page: Path) -> None:
    browser.open(page)
    accuracy = column(browser, "accuracy")
    browser.run(CLICK.format(accuracy))
    assert [v.strip("★ ") for v in browser.run(CELLS.format(accuracy))] == [
        "100.00", "98.00", "90.00",
    ]  # fmt: skip


def test_the_keyboard_sorts_too(browser: Any, page: Path) -> None:
    browser.open(page)
    beta = column(browser, "β̃")
    browser.run(f"document.querySelector('table').tHead.rows[0].cells[{beta}].firstChild.focus()")
    for expected in (["0.5", "2", "10"], ["10", "2", "0.5"]):
        browser.press("Enter")
        assert browser.run(CELLS.format(beta)) == expected


def test_a_link_opens_its_run(browser: Any, page: Path) -> None:
    browser.open(page)
    assert browser.run("document.querySelector('#run-2').open") is False
    browser.run("document.querySelector('tbody a[href=\"#run-2\"]').click()")
    browser.wait("new Promise(done => setTimeout(done, 100))")
    assert browser.run("document.querySelector('#run-2').open") is True
    browser.open(page, "#run-3")
    assert browser.run("document.querySelector('#run-3').open") is True
    assert browser.complaints() == []


def test_a_dot_that_is_pointed_at_lights_up_its_run_everywhere_and_a_click_goes_there(
    browser: Any, page: Path
) -> None:
    browser.show(1600, "light")
    browser.open(page)
    lit = "Array.from(document.querySelectorAll('.lit'), e => e.dataset.run)"
    for at, runs in (("over", ["run-2"] * 3), ("out", [])):
        pointed = f"new PointerEvent('pointer{at}', {{bubbles: true}})"
        browser.run(f"document.querySelector('a[data-run=run-2] circle').dispatchEvent({pointed})")
        assert browser.run(lit) == runs  # its row, and its dots in two charts
    titles = "document.querySelector('a[data-run=run-2] title').textContent"
    assert browser.run(titles).endswith("seed=0: accuracy 98.00 %")
    click = "new MouseEvent('click', {bubbles: true})"
    browser.run(f"document.querySelector('a[data-run=run-2] circle').dispatchEvent({click})")
    browser.wait("new Promise(done => setTimeout(done, 100))")
    assert browser.run("document.querySelector('#run-2').open") is True
    assert browser.complaints() == []


def test_samples_are_seen_without_a_click_and_every_column_can_be_reached(
    browser: Any, page: Path
) -> None:
    for width in (400, 1600):
        browser.show(width, "dark")
        browser.open(page)
        image = "document.querySelector('img[alt*=\"Samples of each class\"]')"
        assert browser.run(f"{image}.checkVisibility()")
        region = "document.querySelector('.scroll')"
        browser.run(f"{region}.scrollLeft = 1e6")
        last = f"{region}.querySelector('thead th:last-child').getBoundingClientRect().right"
        assert browser.run(f"{last} <= {region}.getBoundingClientRect().right + 1")
        short = "Array.from(document.querySelectorAll('.tables .scroll')).every"
        assert browser.run(f"{short}(e => e.scrollHeight <= e.clientHeight + 20)")


def test_it_fits_on_paper(browser: Any, page: Path) -> None:
    # A4 between margins of a centimetre, at 96 pixels an inch.
    browser.show(718, "dark")
    browser.open(page)
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.call("Emulation.setEmulatedMedia", media="")

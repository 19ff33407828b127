"""The page of `flowclf explore` in a real browser: every view answers, fits, and is silent."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from explored import explorer
from PIL import Image

import flowclf
from flowclf.explore.explorer import Explorer
from flowclf.explore.export import (
    MOST_NUMBERS,
    MOST_SAMPLES,
    RUNTIME,
    fetch_runtime,
    write_page,
)
from flowclf.explore.server import application, open_socket
from flowclf.training.task import Task

TOKEN = "test"
VIEWS = ("map", "walk", "draw", "dials", "compare")
FRAMES = "+(document.getElementById('panel-{}')?.dataset.frames ?? 0)"
BOX = "(r => [r.x, r.y, r.width, r.height])(document.querySelector('{}').getBoundingClientRect())"

DROP = """(() => {{
    const bytes = Uint8Array.from(atob("{}"), c => c.charCodeAt(0)), dropped = new DataTransfer();
    dropped.items.add(new File([bytes], "a.png", {{ type: "image/png" }}));
    const drop = new DragEvent("drop", {{ dataTransfer: dropped, cancelable: true }});
    document.querySelector("#panel-draw .card").dispatchEvent(drop);
}})()"""


def of_data(name: str, system: str, **settings: Any) -> Explorer:
    """Make an explorer of real data and a model that knows its class averages, untrained."""
    data = flowclf.load_dataset(name)
    config = flowclf.make_config(system, name, data.shape, overrides=settings)
    model = flowclf.build(
        system, shape=data.shape, classes=data.classes, levels=data.levels,
        preset=config.preset, **settings,
    )  # fmt: skip
    train = data.train.spread(1000)
    model.fit_statistics(train.x, train.y)
    model.fit_latents(train.x, train.y)
    model.mixture.set_means(model.mixture.data_means)
    return Explorer(Task(config, model, data, train, train.take(slice(0)), data.test), Path(name))


MAKERS = {
    "digits": lambda: [of_data("digits", "ib-inn"), of_data("digits", "vae")],
    "mnist": lambda: [of_data("mnist", "ib-inn")],
    "table": lambda: [explorer(table=True, network={"kind": "mlp", "blocks": 2})],
    "vc": lambda: [of_data("digits", "vc")],
}


@contextmanager
def served(explorers: list[Explorer]) -> Iterator[str]:
    """Serve them and yield the address of the page."""
    with open_socket(0) as listening:
        port = listening.getsockname()[1]
        app = application(explorers, TOKEN, port)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="critical", lifespan="off", ws="none")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/?token={TOKEN}"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="module", params=sorted(MAKERS))
def pages(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[Explorer], str]]:
    try:
        explorers = MAKERS[request.param]()
    except flowclf.UserError as error:
        pytest.skip(str(error))
    for each in explorers:
        each.prepare()
    with served(explorers) as address:
        yield request.param, explorers, address


def show(browser: Any, view: str) -> None:
    browser.run(f"document.getElementById('tab-{view}').click()")


def start(browser: Any, address: str) -> None:
    browser.open(address)
    browser.until(f"{FRAMES.format('map')} > 0")


def quiet(browser: Any) -> None:
    """Check that nothing was complained of, and that only the page itself was asked."""
    assert browser.run("document.getElementById('error').textContent") == ""
    assert browser.complaints() == []
    origin = browser.run("location.origin")
    assert all(url.startswith((origin, "data:", "blob:", "about:")) for url in browser.requests())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1000, 1600])
def test_every_view_works_fits_and_is_silent(
    browser: Any, pages: tuple[str, list[Explorer], str], width: int, scheme: str, tmp_path: Path
) -> None:
    _, explorers, address = pages
    browser.show(width, scheme)
    start(browser, address)
    model = explorers[0].model
    for view in VIEWS:
        show(browser, view)
        if not (view == "dials" and not model.can_sample) and not (
            view == "compare" and len(explorers) < 2
        ):
            browser.until(f"{FRAMES.format(view)} > 0")
        assert browser.run("document.documentElement.scrollWidth") <= width, view
        assert browser.run(f"document.getElementById('panel-{view}').innerText.length") > 20
        browser.screenshot(tmp_path / f"{view}.png")
    quiet(browser)


def test_the_posterior_of_the_page_is_the_models(
    browser: Any, pages: tuple[str, list[Explorer], str]
) -> None:
    _, explorers, address = pages
    start(browser, address)
    show(browser, "draw")
    browser.until(f"{FRAMES.format('draw')} > 0")
    bars = "#panel-draw .bars .track div"
    widths = browser.run(
        f"Array.from(document.querySelectorAll('{bars}'), bar => parseFloat(bar.style.width))"
    )
    expected = 100 * explorers[0].model.predict_proba(explorers[0].test.x[:1])[0]
    torch.testing.assert_close(torch.tensor(widths).float(), expected, atol=0.1, rtol=0)
    quiet(browser)


def test_dragging_decodes_and_a_click_takes_a_style(
    browser: Any, pages: tuple[str, list[Explorer], str]
) -> None:
    browser.show(1000, "light")
    start(browser, pages[2])
    x, y, width, height = browser.run(BOX.format(".map"))
    before = browser.run(FRAMES.format("map"))
    browser.drag(*[(x + width * k / 20, y + height * k / 20) for k in range(3, 18)])
    browser.until(f"{FRAMES.format('map')} >= {before + 2}")
    browser.run("document.querySelector('.map').focus()")
    before = browser.run(FRAMES.format("map"))
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft", code="ArrowLeft")
    browser.until(f"{FRAMES.format('map')} > {before}")
    quiet(browser)


def test_a_drawing_is_judged_and_a_wrong_file_is_refused(browser: Any) -> None:
    made = of_data("digits", "ib-inn")
    made.prepare()
    with served([made]) as address:
        browser.show(1000, "light")
        start(browser, address)
        show(browser, "draw")
        browser.until(f"{FRAMES.format('draw')} > 0")
        x, y, side, _ = browser.run(BOX.format(".pad"))
        before = browser.run("document.querySelector('#panel-draw .verdict').textContent")
        browser.drag(*[(x + side * (0.3 + k / 40), y + side * (0.2 + k / 20)) for k in range(12)])
        browser.until(
            "document.querySelector('#panel-draw .verdict').textContent"
            f" !== {before!r} && document.querySelectorAll('#panel-draw .near canvas').length === 8"
        )
        quiet(browser)
        for content, hidden in ((b"no picture", "false"), (picture(), "true")):
            browser.run(DROP.format(base64.b64encode(content).decode()))
            browser.until(f"document.getElementById('error').hidden === {hidden}")


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "white").save(file, "PNG")
    return file.getvalue()


def test_the_way_to_another_class_and_the_keyboard_between_tabs(browser: Any) -> None:
    made = of_data("digits", "ib-inn")
    made.prepare()
    with served([made]) as address:
        browser.show(1000, "light")
        start(browser, address)
        browser.run("document.getElementById('tab-map').focus()")
        browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", code="ArrowRight")
        browser.until(f"{FRAMES.format('walk')} > 0")
        assert browser.run("document.activeElement.id") == "tab-walk"
        choose = "select.value = '3'; select.dispatchEvent(new Event('change'));"
        target = "document.querySelectorAll('#panel-walk > .row select')[1]"
        browser.run(f"(select => {{ {choose} }})({target})")
        browser.until("!document.querySelector('#panel-walk .card[hidden]')")
        quiet(browser)


@pytest.mark.parametrize("name", ["digits", "table", "vc"])
def test_the_exported_page_answers_as_torch_does(browser: Any, name: str, tmp_path: Path) -> None:
    try:
        runtime = fetch_runtime()
    except flowclf.UserError as error:
        pytest.skip(str(error))
    made = MAKERS[name]()[0]
    file = tmp_path / "page.html"
    assert write_page(made, file, runtime)["bytes"] < 25e6
    browser.show(1000, "light")
    start(browser, file)
    # The page has every so many of the test samples.
    kept = made.test.spread(min(MOST_SAMPLES, MOST_NUMBERS // made.model.dims))
    small = Explorer(made.task, made.folder, kept)
    if small.model.has_density:
        small.decider = small.calibrated("parts-of-density")[0]
    questions: dict[str, dict[str, Any]] = {
        "decode": {"at": [0.3, -0.2], "sample": 2},
        "walk": {"start": {"sample": 0}, "end": {"class": 1}, "path": "spherical", "steps": 5},
        "judge": {"place": {"sample": 4}, "neighbours": 0},
        "wish": {"place": {"sample": 4}},
    }
    small.call("points", {})
    for call, arguments in questions.items():
        expected = small.call(call, arguments)
        asked = f"import('model').then(m => m.ask(0, '{call}', {json.dumps(arguments)}))"
        found = browser.run(asked, awaitPromise=True)
        for part in ("posterior", "p_value", "bits_per_dim"):
            if expected[part] is None or found[part] is None:
                assert found[part] is None
                continue
            torch.testing.assert_close(
                torch.tensor(found[part], dtype=torch.float64),
                torch.tensor(expected[part], dtype=torch.float64), rtol=0,
                atol=0.01 if part == "p_value" else 1e-3,  # rounding may change a rank
            )  # fmt: skip
    for view in VIEWS[:3]:
        show(browser, view)
        browser.until(f"{FRAMES.format(view)} > 0")
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith(("data:", "blob:"))] == [
        file.as_uri()
    ]


def test_another_runtime_is_refused(tmp_path: Path) -> None:
    for name in RUNTIME:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(flowclf.UserError, match="got another"):
        write_page(MAKERS["table"]()[0], tmp_path / "page.html", tmp_path)
    with pytest.raises(flowclf.UserError, match="npm pack"):
        write_page(MAKERS["table"]()[0], tmp_path / "page.html", tmp_path / "nowhere")

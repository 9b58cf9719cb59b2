"""The page in a browser: nothing is loaded, nothing complained about, and everything has its place."""

from __future__ import annotations

import pytest

from plm_composer.report.page import write_report
from tests.browsers import LAPTOP, launched_browser

TEXT_OUTSIDE = """
    figure => {
        const frame = figure.querySelector("svg").getBoundingClientRect();
        return [...figure.querySelectorAll("svg text")].filter(text => {
            const box = text.getBoundingClientRect();
            return box.left < frame.left - 1 || box.right > frame.right + 1
                || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
        }).map(text => text.textContent);
    }
"""

FONT_SIZES = """
    texts => texts.map(text => {
        const place = text.getScreenCTM();
        return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(place.a, place.b);
    })
"""


@pytest.fixture(scope="module")
def browser():
    with launched_browser() as launched:
        yield launched


@pytest.fixture(scope="module", params=["one run", "two runs"])
def path(request, measured_run, finished_run, tmp_path_factory):
    runs = [measured_run] if request.param == "one run" else [measured_run, finished_run.folder]
    return write_report(runs, tmp_path_factory.mktemp("page") / "report.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_laptop_and_loads_nothing(browser, path, scheme) -> None:
    page = browser.new_page(viewport=LAPTOP, color_scheme=scheme)
    messages, requests = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    width, shown = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width <= shown
    charts = page.locator("figure.chart:visible").all()
    assert len(charts) == 1 + 6
    for chart in charts:
        box = chart.locator("svg").bounding_box()
        assert box["width"] > 400
        assert box["height"] > 150
        assert chart.evaluate(TEXT_OUTSIDE) == []
    sizes = page.locator("svg text:visible").evaluate_all(FONT_SIZES)
    assert min(sizes) > 11, "text is too small to read"
    assert messages == []
    assert requests == [path.as_uri()]
    page.close()


def test_the_loss_is_shown_against_what_is_chosen(browser, path) -> None:
    page = browser.new_page(viewport=LAPTOP)
    page.goto(path.as_uri())
    for choice, label in (("Time", "training time, seconds"), ("FLOPs", "model FLOPs"), ("Tokens", "tokens trained")):
        page.locator("#loss label", has_text=choice).click()
        (chart,) = page.locator("#loss figure:visible").all()
        assert label in chart.text_content()
        assert chart.evaluate(TEXT_OUTSIDE) == []
    page.close()


def test_dark_and_light_have_ink_that_is_read_on_their_paper(browser, path) -> None:
    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for scheme in ("light", "dark"):
        page = browser.new_page(viewport=LAPTOP, color_scheme=scheme)
        page.goto(path.as_uri())
        paper = luminance(page.locator("#loss").evaluate("box => getComputedStyle(box).backgroundColor"))
        inks = page.locator("svg text:visible").evaluate_all("all => all.map(one => getComputedStyle(one).fill)")
        for ink in set(inks):
            low, high = sorted([paper, luminance(ink)])
            assert (high + 0.05) / (low + 0.05) > 3, f"{ink} on {scheme}"
        page.close()

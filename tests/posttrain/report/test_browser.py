"""The report in a real browser: it renders without a script, a network address or an error, on a desktop and on a phone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from posttrain.report.build import write_report

# Figures without two axes: bars that carry their numbers, and a drawing. Their sentences say what is counted.
DRAWN = ("Win rates", "Documents:", "Instructions:", "Preferences:", "From sources to the model")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("size", ["1100,3000", "400,3000"])
def test_the_report_renders_in_chromium(recipe, run, folders, tmp_path: Path, size: str):
    """The DOM after rendering holds the verdict and every figure; the screenshot is a picture of that size."""
    page_file = write_report(recipe, run, folders, tmp_path / "report.html")
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path}/profile"]  # fmt: skip
    picture = tmp_path / "report.png"
    shot = [str(CHROMIUM), *quiet, f"--window-size={size}", f"--screenshot={picture}", page_file.as_uri()]
    subprocess.run(shot, check=True, capture_output=True, timeout=120)
    header = picture.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert f"{int.from_bytes(header[16:20], 'big')},{int.from_bytes(header[20:24], 'big')}" == size
    dom = subprocess.run([str(CHROMIUM), *quiet, "--dump-dom", page_file.as_uri()], check=True, capture_output=True, timeout=120)
    rendered = dom.stdout.decode()
    assert rendered.count("<svg") == page_file.read_text(encoding="utf-8").count("<svg") > 5


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_no_error_no_request_and_no_sideways_scrolling_at_any_width(recipe, run, folders, tmp_path: Path):
    """At 1280 and 390 px; every figure has a title, a sentence and units, and its letters are at least 7 px high."""
    sync = pytest.importorskip("playwright.sync_api")
    page_file = write_report(recipe, run, folders, tmp_path / "report.html")
    with sync.sync_playwright() as play, play.chromium.launch(executable_path=CHROMIUM) as browser:
        for width in (1280, 390):
            page, said, asked = browser.new_page(viewport={"width": width, "height": 900}), [], []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(page_file.as_uri())
            assert (said, asked) == ([], [page_file.as_uri()])
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            captions = page.eval_on_selector_all(
                "figure", "all => all.map(f => [f.querySelector('strong').innerText, f.querySelector('span')?.innerText])"
            )
            assert len(captions) > 15
            assert [title for title, sentence in captions if not (title and sentence and sentence.endswith("."))] == []
            assert [title for title, labels in axes(page) if len(labels) < 2 and not title.startswith(DRAWN)] == []
            heights = page.eval_on_selector_all("figure svg text", "all => all.map(t => t.getBoundingClientRect().height)")
            assert min(heights) >= 7


def axes(page) -> list[tuple[str, list[str]]]:
    """Title of each figure, and the labels of its axes: the text under the picture, and the one that stands upright."""
    return page.eval_on_selector_all(
        "figure",
        """all => all.filter(f => f.querySelector('svg')).map(f => {
            const words = [...f.querySelectorAll('svg text')].filter(t => /[a-zβ]/i.test(t.textContent));
            const box = t => t.getBoundingClientRect(), svg = f.querySelector('svg').getBoundingClientRect();
            const upright = words.filter(t => box(t).height > box(t).width && box(t).left < svg.left + svg.width / 4);
            const under = words.filter(t => box(t).bottom > svg.bottom - svg.height / 8 && box(t).width > box(t).height);
            return [f.querySelector('strong').innerText, [...upright, ...under].map(t => t.textContent)];
        })""",
    )

"""The report of a sweep in a real browser: what it shows, does and costs.

Skipped where there is no Chromium: `apt-get install chromium`, or `chromium-browser`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from imagen_flow._sweep.report.folder import write_report

_spec = importlib.util.spec_from_file_location("browser", Path(__file__).parent / "browser.py")
assert _spec is not None and _spec.loader is not None
driver = sys.modules.setdefault("browser", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(driver)

pytestmark = pytest.mark.skipif(
    driver.find_browser() is None, reason=f"there is none of {', '.join(driver.NAMES)}"
)

HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>&amp;"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with driver.Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


def make_report(folder: Path, rows: list[dict[str, Any]]) -> str:
    """Write an index and its report; return the address of the report."""
    for row in rows:
        for output in row.get("outputs", {}).values():
            if "path" in output and not (folder / output["path"]).exists():
                shade = 40 + 20 * (row["index"] % 10)
                PIL.Image.new("RGB", (64, 48), (shade, 90, 255 - shade)).save(
                    folder / output["path"]
                )
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "index.jsonl").write_text(lines, "utf-8")
    write_report(folder, sheet=False)
    return (folder / "report.html").as_uri()


def product(**axes: list[Any]) -> list[dict[str, Any]]:
    values: list[dict[str, Any]] = [{}]
    for name, choices in axes.items():
        values = [{**value, name: choice} for value in values for choice in choices]
    return [
        {
            "index": i,
            "item": f"i{i}",
            "axes": value,
            "inputs": {**value, "steps": 20},
            "outputs": {
                "picture": {"path": f"{i}.png", "kind": "image", "key": "e" * 40},
                "score": {"value": (i * 7) % 10 / 10, "kind": "number"},
            },
            "command": f"imagen-flow run g.yaml --set seed={value.get('seed', 0)}",
        }
        for i, value in enumerate(values)
    ]


LABELS = "[...document.querySelectorAll('.open')].map((open) => open.getAttribute('aria-label'))"
FOCUSED = "document.activeElement.getAttribute('aria-label')"


def choose(page: Any, label: str, option: str) -> None:
    """Choose an option of the list with this label, by their texts."""
    page.evaluate(
        f"""(() => {{
          const field = [...document.querySelectorAll('.field')].find((field) => field.firstChild.textContent === {json.dumps(label)});
          const list = field.querySelector('select');
          list.value = [...list.options].find((option) => option.text === {json.dumps(option)}).value;
          list.dispatchEvent(new Event('change'));
        }})()"""
    )


def test_hostile_text_runs_nothing(browser: Any, tmp_path: Path) -> None:
    """Markup in prompts, names, errors, notes and paths is shown as it is written, and no script but
    the page's own runs.
    """
    row = {
        "index": 0,
        "item": HOSTILE,
        "axes": {HOSTILE: HOSTILE},
        "inputs": {HOSTILE: HOSTILE},
        "seeds": {HOSTILE: HOSTILE},
        "status": "failed",
        "error": HOSTILE,
        "notes": [HOSTILE],
        "outputs": {HOSTILE: {"value": HOSTILE, "kind": "text"}, "p": {"path": "javascript:1.png"}},
        "command": HOSTILE,
    }
    other = {"index": 1, "item": "b", "axes": {HOSTILE: "b"}}
    (tmp_path / "javascript:1.png").write_bytes(b"")
    page = browser.open(make_report(tmp_path, [row, other]))
    page.evaluate("document.querySelector('.open').click()")
    page.wait("document.querySelector('#detail').open")
    shown = page.evaluate("document.querySelector('#detail').textContent")
    assert shown.count(HOSTILE) >= 8
    assert page.evaluate("document.querySelector('.copy')") is None
    links = "[...document.querySelectorAll('a')].map((a) => a.getAttribute('href'))"
    assert page.evaluate(links) == ["#view", "./javascript%3A1.png"]
    assert page.evaluate("window.pwned") is None
    assert page.faults() == []
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.pwned=3>')"
    )
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.pwned = 4'}))"
    )
    page.wait(f"{json.dumps(0)} === 0")
    assert page.evaluate("window.pwned") is None
    assert [fault for fault in page.faults() if "Content Security Policy" in fault]
    page.close()


def test_a_grid_of_any_two_axes(browser: Any, tmp_path: Path) -> None:
    """Any two axes make rows and columns, the others are filters; one axis or none is a list."""
    rows = product(seed=[1, 2], cfg=[3, 5, 7], sampler=["a", "b"], size=[64, 96], steps=[10, 20])
    page = browser.open(make_report(tmp_path, rows))
    cells = "document.querySelectorAll('[role=gridcell]').length"
    heads = "[...document.querySelectorAll('[role=columnheader], [role=rowheader]')].map((head) => head.textContent)"
    assert page.evaluate(heads) == ["seed ↓ cfg →", "3", "5", "7", "1", "2"]
    assert page.evaluate(cells) == len(page.evaluate(LABELS)) == 6
    choose(page, "rows", "sampler")
    choose(page, "columns", "size")
    assert page.evaluate(heads) == ["sampler ↓ size →", "64", "96", "a", "b"]
    assert len(page.evaluate(LABELS)) == 4
    choose(page, "cfg", "all")
    assert (page.evaluate(cells), len(page.evaluate(LABELS))) == (4, 12)
    choose(page, "cfg", "7")
    choose(page, "seed", "2")
    assert {"cfg 7", "seed 2"} <= set(page.evaluate(LABELS)[0].split(", ")[0].split(" · "))
    choose(page, "rows", "size")
    assert page.evaluate(heads) == ["size ↓ sampler →", "a", "b", "64", "96"]
    choose(page, "columns", "—")
    choose(page, "rows", "—")
    assert len(page.evaluate(LABELS)) == 48
    assert page.evaluate("document.querySelector('[role=list]').children.length") == 48
    assert page.faults() == []
    page.close()


def test_no_axes(browser: Any, tmp_path: Path) -> None:
    """Items without axes are a list with their own names, and one item is a page too."""
    page = browser.open(make_report(tmp_path, [{"index": 0, "item": "only"}]))
    assert page.evaluate(LABELS) == ["only"]
    assert page.evaluate("document.querySelector('#summary').textContent") == "1 item"
    assert page.faults() == []
    page.close()


def test_sorting_filtering_and_searching(browser: Any, tmp_path: Path) -> None:
    """Items are sorted by a score, coloured by it, and found by status and words."""
    rows = product(seed=[*range(6)])
    rows[2] |= {"status": "failed", "error": "out of memory\n  = fix: use less", "outputs": {}}
    page = browser.open(make_report(tmp_path, rows))
    choose(page, "sort by", "score")
    scores = "[...document.querySelectorAll('.numbers')].map((text) => text.textContent)"
    assert page.evaluate(scores) == [f"score {s}" for s in ("0.8", "0.7", "0.5", "0.1", "0")]
    strips = "new Set([...document.querySelectorAll('.strip')].map((strip) => strip.style.background)).size"
    assert page.evaluate(strips) == 5
    assert page.evaluate("document.querySelector('.failed').textContent") == "failedout of memory"
    page.evaluate("document.querySelector('#summary button').click()")
    assert page.evaluate(LABELS) == ["seed 2, failed"]
    choose(page, "status", "all")
    page.evaluate(
        "(() => { const search = document.querySelector('#search'); search.value = 'MEMORY'; search.dispatchEvent(new Event('input')); })()"
    )
    page.wait("document.querySelectorAll('.open').length === 1")
    page.close()


def test_a_picture_with_all_that_is_known(browser: Any, tmp_path: Path) -> None:
    """Enter opens a picture with its inputs and command; arrows go on; escape goes back to it."""
    page = browser.open(make_report(tmp_path, product(seed=[1, 2, 3], cfg=[3, 5])))
    page.press("ArrowDown")
    assert page.evaluate(FOCUSED) == "seed 1 · cfg 3, score 0"
    page.press("ArrowRight")
    assert page.evaluate(FOCUSED) == "seed 2 · cfg 3, score 0.4"
    page.press("ArrowDown")
    assert page.evaluate(FOCUSED) == "seed 2 · cfg 5, score 0.1"
    page.press("ArrowUp")
    page.press("End")
    page.press("Home")
    page.press("Enter")
    page.wait("document.querySelector('.large img').naturalWidth === 64")
    assert page.evaluate("document.querySelector('.large img').getAttribute('src')") == "./0.png"
    page.press("ArrowRight")
    page.wait("document.querySelector('.large img').getAttribute('src') === './2.png'")
    facts = page.evaluate("document.querySelector('.facts').innerText")
    assert facts == (
        "What varies\nseed\n2\ncfg\n3\nOutputs\nscore\n0.4\nInputs\nsteps\n20\nFiles\npicture\n2.png\n"
        "Make this one again\nimagen-flow run g.yaml --set seed=2\nCopy the command\nProvenance"
    )
    page.press("y")
    page.wait("document.querySelector('.copy').textContent === 'Copied'")
    page.press("Escape")
    page.wait("!document.querySelector('#detail').open")
    page.wait(f"{FOCUSED} === 'seed 2 · cfg 3, score 0.4'")
    assert page.faults() == []
    page.close()


def test_two_pictures_are_compared(browser: Any, tmp_path: Path) -> None:
    """Two marks open a comparison: side by side, by a slider, by difference, and in words."""
    page = browser.open(make_report(tmp_path, product(seed=[1, 2, 3])))
    page.press("ArrowDown")
    page.press("c")
    assert page.evaluate("document.querySelector('#marks span').textContent").startswith("seed 1")
    page.press("ArrowRight")
    page.press("c")
    page.wait("document.querySelector('#comparison').open")
    images = "[...document.querySelectorAll('#comparison img')].map((image) => image.getAttribute('src'))"
    assert page.evaluate(images) == ["./0.png", "./1.png"]
    table = "[...document.querySelectorAll('#comparison tbody tr')].map((row) => row.innerText)"
    assert page.evaluate(table) == ["seed\t1\t2", "score\t0.0\t0.7"]
    page.press("ArrowRight")  # the next way to compare
    page.wait("document.querySelector('#comparison .slide')")
    page.evaluate("document.querySelector('#comparison [type=range]').focus()")
    page.press("ArrowLeft")
    cut = "document.querySelector('.over').style.getPropertyValue('--cut')"
    assert page.evaluate(cut) == "49%"
    page.evaluate("document.querySelector('#comparison [value=difference]').click()")
    blend = "getComputedStyle(document.querySelectorAll('.over img')[1]).mixBlendMode"
    assert page.evaluate(blend) == "difference"
    page.press("Escape")
    page.wait("!document.querySelector('#comparison').open")
    page.press("Escape")
    assert page.evaluate("document.querySelector('#marks').hidden") is True
    assert page.faults() == []
    page.close()


def test_a_report_without_its_pictures(browser: Any, tmp_path: Path) -> None:
    """A report that was sent without the pictures shows their thumbnails and says so."""
    rows = product(seed=[1, 2])
    make_report(tmp_path, rows)
    sent = tmp_path / "sent"
    sent.mkdir()
    (tmp_path / "report.html").rename(sent / "report.html")
    page = browser.open((sent / "report.html").as_uri())
    page.wait("document.querySelector('.picture img').naturalWidth === 64")
    page.evaluate("document.querySelector('.open').click()")
    page.wait(
        "document.querySelector('.large img').src.startsWith('data:') && document.querySelector('.stage .hint').textContent"
    )
    assert page.evaluate("document.querySelector('.stage .hint').textContent") == (
        "The file cannot be shown or is not beside the report; this is its thumbnail."
    )
    page.close()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("phone", [False, True])
def test_it_reads_well(browser: Any, tmp_path: Path, dark: bool, phone: bool) -> None:
    """On a phone nothing is wider than the screen; in light and dark, all text has the contrast that
    WCAG asks for, and each control has a name.
    """
    rows = product(
        seed=[1, 2, 3], cfg=[3, 5, 7], word=["a rather long prompt about a red circle", "b"]
    )
    rows[1] |= {"status": "failed", "error": "out of memory", "outputs": {}, "notes": ["cut"]}
    rows[0]["notes"] = ["the prompt was cut"]
    size = {"width": 390, "height": 844} if phone else {}
    page = browser.open(make_report(tmp_path, rows), phone=phone, dark=dark, **size)
    page.evaluate("document.querySelector('#options').open = true")
    if phone:
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    contrast = """(() => {
      const channel = (value) => (value /= 255) <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
      const light = (rgb) => .2126 * channel(rgb[0]) + .7152 * channel(rgb[1]) + .0722 * channel(rgb[2]);
      const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
      const low = [];
      for (const element of document.querySelectorAll('body *')) {
        if (![...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
        if (!element.checkVisibility() || element.closest('noscript, script')) continue;
        let behind = element;
        while (behind && (numbers(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
        const ground = light(numbers(getComputedStyle(behind || document.body).backgroundColor));
        const text = light(numbers(getComputedStyle(element).color));
        const ratio = (Math.max(ground, text) + .05) / (Math.min(ground, text) + .05);
        if (ratio < 4.5) low.push([element.textContent.slice(0, 40), ratio]);
      }
      return low;
    })()"""
    assert page.evaluate(contrast) == []
    for number in (0, 1):
        page.evaluate(f"document.querySelectorAll('.open')[{number}].click()")
        page.wait("document.querySelector('#detail').open")
        assert page.evaluate(contrast) == []
        if phone:
            assert page.evaluate("document.querySelector('#detail').scrollWidth") <= 390
        page.evaluate("document.querySelector('#detail').close()")
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    controls = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
        and node["role"]["value"] in ("button", "combobox", "searchbox", "slider", "link")
    ]
    assert len(controls) > 25
    assert [role for role, name in controls if not name] == []
    page.close()


def test_two_thousand_pictures(browser: Any, tmp_path: Path) -> None:
    """With 2,000 items, the page is there at once, decodes only what is in sight, and stays small."""
    rows = product(seed=[*range(50)], prompt=[f"prompt {n}" for n in range(40)])
    for row in rows:
        row["outputs"]["picture"]["path"] = f"{row['index'] % 20}.png"
    page = browser.open(make_report(tmp_path, rows))
    assert len(page.evaluate(LABELS)) == 2000
    loaded = "[...document.querySelectorAll('.picture img')].filter((image) => image.src).length"
    page.wait(f"{loaded} > 10")
    assert page.evaluate(loaded) < 400
    metrics = {m["name"]: m["value"] for m in page.call("Performance.getMetrics")["metrics"]}
    assert metrics["JSHeapUsedSize"] < 60 << 20
    last = "[...document.querySelectorAll('.picture img')].at(-1)"
    assert page.evaluate(f"Boolean({last}.src)") is False
    page.evaluate(f"{last}.scrollIntoView()")
    page.wait(f"{last}.naturalWidth > 0")
    page.close()

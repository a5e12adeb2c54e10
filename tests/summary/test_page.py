"""The page in a real browser without a window: what it shows and does, and that nothing it holds can do anything."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from pruning.summary import ReportSettings, make, make_report
from tests.helpers import CI
from tests.summary import pages
from tests.summary.test_summary import made, neutral

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

    Open = Callable[..., Page]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = '</script><img src=x onerror="window.hacked=1"><!--\'`${1} {{data}} \u2028 \u202e ü 木'
METHODS: Mapping[str, Mapping[str, Any]] = {
    "magnitude": {"prune.criterion": "magnitude"},
    "layer": {"prune.criterion": "magnitude", "prune.scope": "layer"},
    "random": {"prune.criterion": "random"},
}
NETWORKS = (("cifar10", "resnet56"), ("digits", "vgg16"))


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    if CI:
        up = subprocess.run([Path(__file__).parents[1] / "browser-up.sh"], capture_output=True, text=True)
        if up.returncode:
            pytest.fail(f"no browser: {up.stderr.strip()}")
    elif not any(map(shutil.which, BROWSERS)):
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed: tests/browser-up.sh does it")
    else:
        pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, BROWSERS)))
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: "Browser") -> Iterator["Open"]:
    """`opened(path, width=..., **context)` opens a page; in the end none may have complained, or asked for anything."""
    said: list[str] = []
    asked: list[str] = []
    paths, contexts = {"data:,"}, []

    def open_page(path: Path, width: int = 1280, height: int = 900, ready: str = ".point", **options: Any) -> "Page":
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector(ready)
        paths.add(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert set(asked) <= paths


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks, three methods, six sparsities, two seeds: 148 runs in 36 cells. The first by name has a picture."""
    runs = tmp_path_factory.mktemp("runs")
    found = pages.sweep(runs, METHODS, networks=NETWORKS, seeds=2)
    next(iter(sorted(runs.glob("finetune-*")))).joinpath("picture.png").write_bytes(b"a picture")
    return pages.write(runs, found, ["damaged, not counted: one", "waiting, not counted: another"])


def column(table: "Locator", title: str) -> list[str]:
    """Return the texts of a column, from top to bottom."""
    return table.locator(f"tbody tr > :nth-child({titles(table).index(title) + 1})").all_inner_texts()


def titles(table: "Locator") -> list[str]:
    return [" ".join(text.split()) for text in table.locator("thead th").all_inner_texts()]


def head(table: "Locator", title: str) -> "Locator":
    return table.locator("thead button", has_text=re.compile(rf"^{re.escape(title)}$"))


def embedded(path: Path) -> Any:
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(found[0])


def test_a_report_in_a_directory_of_runs(tmp_path: Path, opened: "Open", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "draw", lambda *_: [])
    made(tmp_path, {(0.5, "magnitude"): [90.1, 90.9], (0.9, "magnitude"): [80.0], (0.5, "random"): [80.0, 85.0]})
    (tmp_path / "notes").mkdir()
    text = make_report(tmp_path, ReportSettings(), neutral).text()
    path = tmp_path / "report" / "report.html"
    assert text.splitlines()[-1] == f"report: {path}"
    page = opened(path)
    assert page.title() == page.locator("h1").inner_text() == "Pruning report"
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("main h2:visible").all_inner_texts() == [
        *("Answer", "Warnings", "Curves", "Cells", "Runs", "Not counted")
    ]
    assert [code for code in page.locator(".command code").all_inner_texts() if code not in text] == []
    assert page.locator(".command code").first.inner_text().startswith("python main.py -m dataset=digits")
    assert "at 0.9 there is only 1 of 3 seeds" in page.locator("#warnings").inner_text()
    assert str(tmp_path / "notes") in page.locator("#problems").inner_text()
    runs = page.locator("#runs table")
    assert len(column(runs, "id")) == 12
    assert set(column(runs, "prune.criterion")) == {"magnitude", "random", ""}
    assert page.locator("#network").is_hidden()


def test_a_report_on_nothing(tmp_path: Path, opened: "Open") -> None:
    page = opened(pages.write(tmp_path, {}), ready="#answers p")
    assert page.locator("main h2:visible").all_inner_texts() == ["Answer", "Not counted"]


def test_cells_are_sorted_by_number_and_filtered_by_words(usual: Path, opened: "Open") -> None:
    page = opened(usual)
    table = page.locator("#cells table")
    assert titles(table) == ["dataset", "network", *embedded(usual)["short"]]
    head(table, "compression").click()
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    values = [float(text.rstrip("×")) for text in column(table, "compression")]
    assert values == sorted(values)
    assert values[0] < 10 < values[-1]
    head(table, "compression").press("Enter")
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    assert [float(text.rstrip("×")) for text in column(table, "compression")] == values[::-1]
    assert all(re.fullmatch(r"\d+\.\d\d", text) for text in column(table, "top-1"))
    page.locator("#cells").get_by_label("Filter").fill("LAYER vgg16")
    assert page.locator("#cells output").inner_text() == "6 of 36 cells"
    assert set(column(table, "network")) == {"vgg16"}
    assert {text for text in column(table, "method") if "prune.scope=layer" not in text} == set()
    page.locator("#cells").get_by_label("All columns").check()
    assert titles(table) == embedded(usual)["columns"]
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    table.locator("tbody tr").first.get_by_title("Show its runs").click()
    assert page.locator("#runs output").inner_text() == "2 of 148 runs"
    assert set(column(page.locator("#runs table"), "prune.scope")) == {"layer"}
    page.locator("#cells").get_by_label("Filter").fill("nothing has this")
    assert table.locator("tbody tr").count() == 0


def test_runs_come_in_pages_and_what_is_empty_comes_last(usual: Path, opened: "Open") -> None:
    page = opened(usual)
    section = page.locator("#runs")
    table = section.locator("table")
    assert table.locator("tbody tr").count() == 50
    seen = column(table, "id")
    for _ in range(2):
        section.get_by_role("button", name="Next").click()
        seen += column(table, "id")
    assert section.locator(".pager span").inner_text() == "Page 3 of 3"
    assert section.get_by_role("button", name="Next").is_disabled()
    assert len(seen) == len(set(seen)) == 148
    for _ in range(2):  # up, then down
        head(table, "top-1 pruned").click()
        assert section.locator(".pager span").inner_text() == "Page 1 of 3"
        section.get_by_role("button", name="Last").click()
        assert column(table, "stage")[-4:] == ["train"] * 4
        assert column(table, "top-1 pruned")[-5:].count("") == 4
    section.get_by_label("Filter").fill(seen[0])
    assert column(table, "id") == [seen[0]]
    assert section.locator(".pager").is_hidden()


def test_a_mark_is_read_by_pointer_keyboard_and_touch(usual: Path, opened: "Open") -> None:
    page = opened(usual)
    tip = page.locator("#tip")
    last = page.locator("#chart svg").nth(1)
    points = [p for p in embedded(usual)["points"] if p["network"] == 0]
    first = points[0]
    assert tip.is_hidden()
    page.locator("#curves").scroll_into_view_if_needed()
    last.locator(".point").first.hover(force=True)
    middle, low, high, seeds = first["y"][1]
    for text in (first["method"], "sparsity 0.5", f"top-1 {middle:.2f}", f"{low:.2f} to {high:.2f}", "n = 2"):
        assert text in tip.inner_text()
    assert all(f"seed {seed}: {value:.2f}" in tip.inner_text() for seed, value in seeds)
    page.mouse.move(1, 1)
    assert tip.is_hidden()
    last.locator(".point[tabindex='0']").focus()
    for key, sparsity in (("ArrowRight", "0.7"), ("ArrowRight", "0.8"), ("ArrowLeft", "0.7")):
        page.keyboard.press(key)
        assert f"sparsity {sparsity}, at the end" in tip.inner_text()
    page.keyboard.press("ArrowDown")
    assert points[6]["method"] in tip.inner_text()
    assert "sparsity 0.7" in (page.locator(".point:focus").get_attribute("aria-label") or "")
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    touched = opened(usual, 390, 844, has_touch=True, is_mobile=True)
    touched.locator("#chart svg").first.locator(".point").nth(2).tap(force=True)
    assert "right after pruning" in touched.locator("#tip").inner_text()


def test_lines_networks_and_axes_are_chosen(usual: Path, opened: "Open") -> None:
    page = opened(usual)
    entries = page.locator("#legend .entry")
    assert entries.count() == 3
    assert page.locator("#chart .line").count() == 6
    entries.nth(1).click()
    assert entries.nth(1).get_attribute("aria-pressed") == "false"
    assert page.locator("#chart .line").count() == 4
    assert page.locator("#chart .line.c1").count() == 0
    entries.nth(1).press("Space")
    assert page.locator("#chart .line").count() == 6
    shapes = {mark.get_attribute("d") for mark in page.locator("#legend .mark").all()}
    colors = {mark.evaluate("mark => getComputedStyle(mark).color") for mark in page.locator("#legend .mark").all()}
    assert len(shapes) == len(colors) == 3
    marks = page.locator("#chart svg").first.locator(".point")
    before = [mark.get_attribute("transform") for mark in marks.all()]
    page.get_by_label("Against").select_option(label=embedded(usual)["axes"][1][0])
    after = [mark.get_attribute("transform") for mark in marks.all()]
    assert before != after
    assert "50" in page.locator("#chart svg").first.locator("text").all_text_contents()
    dense = page.locator("#legend .soft").inner_text()
    page.locator("#network").select_option(label="vgg16 on digits")
    assert page.locator("#legend .soft").inner_text() != dense
    page.get_by_label("Accuracy from 0 to 100").check()
    labels = page.locator("#chart svg").first.locator("text").all_text_contents()
    assert {"0", "100"} <= set(labels)


def test_a_run_opens_with_its_settings_and_ancestors(usual: Path, opened: "Open") -> None:
    page = opened(usual)
    page.locator("#runs .open").first.click()
    dialog = page.get_by_role("dialog")
    name = dialog.locator("h2").inner_text()
    assert name.startswith("finetune-cifar10-resnet56-p0.5-s0-r")
    rows = [row.all_inner_texts() for row in [tr.locator("th, td") for tr in dialog.locator("#settings tr").all()]]
    settings = dict(rows)
    assert settings["train.epochs"] == "160"
    assert settings["finetune.lr"] == "0.01"
    assert settings["prune.percent"] == "0.5"
    assert [key for key, _ in rows[:2]] == ["prune.criterion", "prune.scope"]
    lineage = dialog.locator("#lineage li").all_inner_texts()
    assert [re.sub(r"^r\w+ | [\d.]+$", "", line) for line in lineage] == [
        *("train, sparsity 0, top-1", "prune, sparsity 0.5, top-1", "finetune, sparsity 0.5, top-1")
    ]
    picture = dialog.get_by_role("link", name="picture").evaluate("link => link.href")
    assert Path(unquote(picture.removeprefix("file://"))).read_bytes() == b"a picture"
    assert dialog.get_by_role("link", name="picture").get_attribute("href") == f"./../{name}/picture.png"
    dialog.locator("#lineage button").first.click()
    assert dialog.locator("h2").inner_text().startswith("train-cifar10-resnet56-s0-")
    assert dialog.get_by_role("link", name="picture").count() == 0
    assert "finetune.lr" not in dialog.locator("#settings").inner_text()
    page.keyboard.press("Escape")
    assert dialog.count() == 0


def test_whatever_things_are_called_is_text_and_runs_nothing(tmp_path: Path, opened: "Open") -> None:
    inside = HOSTILE.replace("/", "")  # a directory's name has no slash
    methods: Mapping[str, Mapping[str, Any]] = {
        "a": {"prune.criterion": HOSTILE},
        "b": {"prune.criterion": "2", HOSTILE: [HOSTILE]},
    }
    found = pages.sweep(tmp_path, methods, networks=[(inside, f"#%?{inside}")], sparsities=(0.5, 0.9), seeds=2)
    path = pages.write(tmp_path, found, [HOSTILE])
    text = path.read_text()
    assert text.count("<img") == 0
    assert text.count("<!--") == 0
    assert text.count("</script>") == 2
    page = opened(path)
    for name in ("#answers", "#cells", "#runs", "#problems", "#legend"):
        assert "<img src=x onerror=" in page.locator(name).inner_text(), name
    page.locator("#chart .point").last.focus()
    assert HOSTILE in (page.locator("#tip").text_content() or "")
    page.locator("#runs .open").first.click()
    assert HOSTILE in page.locator("#settings").all_text_contents()[0]
    link = page.get_by_role("dialog").get_by_role("link", name="directory").evaluate("link => link.href")
    assert Path(unquote(link.removeprefix("file://"))).is_dir()
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("document.scripts.length") == 2


def test_the_policy_allows_no_request_and_no_other_script(usual: Path, browser: "Browser") -> None:
    page = browser.new_page()
    page.goto(usual.as_uri())
    assert page.evaluate("fetch('data:,x').then(() => 'sent', () => 'refused')") == "refused"
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked = 1'}))")
    assert page.evaluate("window.hacked") is None
    page.close()


def test_thousands_of_runs_stay_small_and_usable(tmp_path: Path, opened: "Open") -> None:
    sparsities = [place / 50 for place in range(1, 46)]
    found = pages.sweep(tmp_path, METHODS, sparsities=sparsities, seeds=8)
    assert len(found) > 2000
    path = pages.write(tmp_path, found, [f"waiting, not counted: step {place}" for place in range(500)])
    assert path.stat().st_size < 3e6
    page = opened(path)
    section = page.locator("#runs")
    assert section.locator("output").inner_text() == f"{len(found):,} runs"
    assert page.evaluate("document.querySelectorAll('tbody tr').length") <= 100
    head(section, "seconds").click()
    section.get_by_role("button", name="Last").click()
    assert column(section, "seconds")[-1] == "3600.0"
    section.get_by_label("Filter").fill("p0.5-s3 finetune random")
    assert section.locator("tbody tr").count() == 1
    section.locator(".open").click()
    assert page.locator("#lineage li").count() == 3


def test_a_phone_scrolls_tables_but_never_the_page(usual: Path, opened: "Open") -> None:
    for width in (390, 1280):
        page = opened(usual, width, 844)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("#runs .open").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelector('#run').scrollWidth") <= width


CONTRASTS = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const part = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const color = numbers(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll("body, body *")) {
    const own = [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || e.matches("script, noscript, option, :disabled") || !e.checkVisibility()) continue;
    const style = getComputedStyle(e), inside = e instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(numbers(inside)), light(ground(e))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), `${e.tagName} ${e.textContent.slice(0, 40)}`]);
  }
  return [light(ground(document.body)), found];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_either_scheme(scheme: str, usual: Path, opened: "Open") -> None:
    page = opened(usual, color_scheme=scheme)
    for opened_run in (False, True):
        if opened_run:
            page.locator("#runs .open").first.click()
        brightness, found = page.evaluate(CONTRASTS)
        assert brightness > 0.8 if scheme == "light" else brightness < 0.05
        assert len(found) > 100
        assert [text for ratio, text in found if ratio < 4.5] == []

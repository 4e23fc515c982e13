"""The report in a real Chromium, opened from disk: no message, no request, and what a reader does with it."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from sdbench.boards import Filter
from sdbench.report import commands
from sdbench.spec import Recipe

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with a chromedriver on this machine: apt install chromium-driver"
)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage")
ALL = Filter()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_window_size(1300, 1000)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, evidence: Path, tmp_path: Path) -> Any:
    return load(browser, evidence, tmp_path)


def load(browser: Any, root: Path, folder: Path) -> Any:
    path = folder / "report.html"
    commands.report(str(root), str(path), ALL)
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(path.as_uri())
    return browser


def requests(browser: Any) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    found = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [url for url in found if not url.startswith("data:")]


def test_it_loads_without_a_message_or_a_request(opened: Any) -> None:
    assert opened.get_log("browser") == []
    assert requests(opened) == [opened.current_url]
    entries = opened.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [e for e in entries if not e.startswith("data:")] == []
    assert opened.title == "sdbench report"


def column(browser: Any, head: str) -> list[str]:
    script = """
      const table = document.querySelector('#leaderboard table');
      const at = [...table.tHead.rows[0].cells].findIndex(c => c.textContent.trim().startsWith(arguments[0]));
      return [...table.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[at].textContent);"""
    found: list[str] = browser.execute_script(script, head)
    return found


def button(browser: Any, head: str, table: str = "#leaderboard") -> Any:
    found = browser.find_elements("css selector", f"{table} th button")
    return next(b for b in found if b.text.startswith(head) or b.get_attribute("textContent").startswith(head))


def sorting(browser: Any) -> list[str]:
    heads = browser.find_elements("css selector", "#leaderboard th")
    return [h.get_attribute("aria-sort") for h in heads]


def test_sorting_by_mouse(opened: Any) -> None:
    names = column(opened, "method")
    tops = [float(text.split()[0]) for text in column(opened, "top-1")]
    assert tops == sorted(tops, reverse=True), "as the board has them"
    assert sorting(opened).count("descending") == 1
    button(opened, "method").click()
    assert column(opened, "method") == sorted(names)
    assert sorting(opened).count("ascending") == 1
    assert sorting(opened).count("none") == len(sorting(opened)) - 1
    button(opened, "method").click()
    assert column(opened, "method") == sorted(names, reverse=True)
    button(opened, "gain").click()
    gains = column(opened, "gain")
    assert gains[-1] == "–", "what is missing comes last"
    assert [float(g.split()[0]) for g in gains[:-1]] == sorted((float(g.split()[0]) for g in gains[:-1]), reverse=True)
    button(opened, "gain").click()
    assert column(opened, "gain")[-1] == "–"


def test_sorting_by_keyboard(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    head = button(opened, "method")
    head.send_keys(Keys.ENTER)
    names = column(opened, "method")
    assert names == sorted(names)
    head.send_keys(Keys.SPACE)
    assert column(opened, "method") == names[::-1]
    assert opened.switch_to.active_element == head
    assert "sorted by method, descending" in opened.find_element("id", "said").get_attribute("value")


def test_everything_can_be_reached_by_tab(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    seen = set()
    for _ in range(60):
        opened.switch_to.active_element.send_keys(Keys.TAB)
        seen.add(
            opened.execute_script("const e = document.activeElement; return e.id || e.className.baseVal || e.tagName")
        )
    assert {"find", "by-status", "BUTTON", "SUMMARY", "spot", "series"} <= seen


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def test_filtering_by_text_and_choice(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    field = opened.find_element("id", "find")
    field.send_keys("ZIPF")
    wait(lambda: column(opened, "method") == ["zipf"])
    shown = opened.find_elements("css selector", "#trials tbody tr")
    assert len(shown) == 5
    assert "1 rows, 5 trials shown" in opened.find_element("id", "said").get_attribute("value")
    field.send_keys(Keys.CONTROL, "a", Keys.DELETE)
    wait(lambda: len(column(opened, "method")) == 6)
    Select(opened.find_element("id", "by-status")).select_by_visible_text("oom")
    wait(lambda: column(opened, "method") == ["zipf"])
    opened.find_element("css selector", "button[type=reset]").click()
    wait(lambda: len(column(opened, "method")) == 6)


def test_filtering_by_data_set_and_network_hides_boards_and_figures(
    browser: Any,
    tmp_path: Path,
    put: Callable[..., Path],
    make_trial: Callable[..., Any],
    make_curve: Callable[..., Any],
) -> None:
    from selenium.webdriver.support.select import Select

    root = tmp_path / "results"
    for data, network in (("cifar10", "resnet8"), ("cifar100", "resnet8"), ("cifar100", "resnet20")):
        for method in ("ce", "ls"):
            put(root, make_trial(method, dataset=data, network=network), make_curve(0.5, 0))
    load(browser, root, tmp_path)

    def shown(part: str) -> int:
        return sum(e.is_displayed() for e in browser.find_elements("css selector", f"#{part} [data-dataset]"))

    assert (shown("leaderboard"), shown("figures")) == (3, 3)
    Select(browser.find_element("id", "by-data-set")).select_by_visible_text("cifar100")
    wait(lambda: (shown("leaderboard"), shown("figures")) == (2, 2))
    Select(browser.find_element("id", "by-network")).select_by_visible_text("resnet8")
    wait(lambda: (shown("leaderboard"), shown("figures")) == (1, 1))
    assert len(browser.find_elements("css selector", "#trials tbody tr")) == 2


def screenshot(browser: Any, **media: str) -> Any:
    features = [{"name": "prefers-color-scheme", "value": media.get("scheme", "light")}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media.get("media", ""), "features": features})
    data = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    return imread(io.BytesIO(base64.b64decode(data)))[..., :3]


def test_screenshots_show_something_and_dark_mode_is_dark(opened: Any) -> None:
    light, dark = screenshot(opened), screenshot(opened, scheme="dark")
    assert light.std() > 0.05
    assert dark.std() > 0.05
    assert light.mean() > 0.8
    assert dark.mean() < 0.3
    opened.execute_script("document.querySelector('#figures').scrollIntoView()")
    chart = screenshot(opened)
    assert len(np.unique((chart * 255).round().reshape(-1, 3), axis=0)) > 200
    printed = screenshot(opened, media="print", scheme="dark")
    assert printed.mean() > 0.8, "paper is white"
    assert not opened.find_element("css selector", ".filters").is_displayed()
    screenshot(opened)


def test_hostile_records_do_no_harm(browser: Any, hostile: Path, tmp_path: Path) -> None:
    load(browser, hostile, tmp_path)
    assert browser.title == "sdbench report"
    assert browser.get_log("browser") == []
    assert requests(browser) == [browser.current_url]
    assert browser.execute_script("return document.querySelectorAll('script').length") == 2
    assert browser.execute_script("return document.querySelectorAll('img, iframe, object, embed').length") == 0
    assert browser.execute_script("return [...document.querySelectorAll('svg')].every(s => s.classList.length)")
    words = browser.find_element("css selector", "#leaderboard").get_attribute("textContent")
    assert "<script>document.title='owned'</script>" in words, "shown as text"
    assert "{{ 7 * 7 }}" in words
    width = "return [document.documentElement.scrollWidth, innerWidth]"
    assert browser.execute_script(width)[0] <= browser.execute_script(width)[1], "nothing pushes the page wide"


def test_the_policy_stops_what_slips_through(opened: Any) -> None:
    """Were something not escaped, it would still not run."""
    opened.execute_script(
        "const d = document.createElement('div'); document.body.append(d);"
        "d.innerHTML = '<img src=x:y onerror=\"document.title=1\">';"
        "const s = document.createElement('script'); s.textContent = 'document.title = 2'; document.body.append(s)"
    )
    assert opened.title == "sdbench report"
    assert any("Content Security Policy" in entry["message"] for entry in opened.get_log("browser"))


def test_ten_thousand_trials_can_be_sorted_and_found(
    browser: Any, tmp_path: Path, make_trial: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdbench.cost.archive import Profiles
    from sdbench.report import material
    from sdbench.store import Scan

    base = {
        (d, m): make_trial(f"m{m}" if m else "ce", 0, dataset=f"d{d}", recipe=Recipe(epochs=20))
        for d in range(5) for m in range(250)
    }  # fmt: skip
    trials = tuple(
        r.model_copy(update={"trial_id": f"{r.trial_id}{s}", "spec": r.spec.model_copy(update={"seed": s}),
                             "metrics": r.metrics.model_copy(update={"top1": (s + hash(key) % 97) / 200})})
        for key, r in base.items() for s in range(8)
    )  # fmt: skip
    assert len(trials) == 10_000
    monkeypatch.setattr(material.Store, "scan", lambda _: Scan(trials, ()))
    monkeypatch.setattr(material.archive, "scan", lambda _: Profiles((), ()))
    load(browser, tmp_path, tmp_path)
    button(browser, "NLL").click()
    button(browser, "seed", "#trials").click()
    browser.find_element("id", "find").send_keys("m17")
    wait(lambda: len(column(browser, "method")) == 11)
    assert len(browser.find_elements("css selector", "#trials tbody tr")) <= 200
    assert browser.get_log("browser") == []

"""The page of results in a real browser."""

import json
import os
import shutil

import pytest

from entrosparse.reproduce.framework.running import reproduce

selenium = pytest.importorskip("selenium.webdriver")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver on the PATH"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "out"
    tiny = {"n_patches": 128, "n_paper_patches": 128, "n_judged": 32, "n_heldout": 8, "n_components": 4}
    reproduce(["annealing-fields"], out, "smoke", tiny)
    return (out / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = selenium.ChromeOptions()
    options.binary_location = BROWSER
    flags = ["headless", "disable-gpu", "no-first-run", "disable-background-networking", "disable-sync"]
    flags += ["disable-component-update", f"user-data-dir={tmp_path_factory.mktemp('profile')}"]
    if os.geteuid() == 0:
        flags.append("no-sandbox")
    for flag in flags:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = selenium.Chrome(options, selenium.ChromeService(DRIVER))
    yield browser
    browser.quit()


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)], ids=["phone", "desktop"])
def test_the_page_works_without_a_network(browser, page, width, height):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get_log("performance")  # forget what came before
    browser.get(page)

    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")

    def shown(frames):
        return [
            image.get_attribute("src")
            for image in frames.find_elements("tag name", "img")
            if image.is_displayed()
        ]

    films = browser.find_elements("css selector", ".frames")
    assert films
    for frames in films:
        slider = frames.find_element("tag name", "input")
        (last,) = shown(frames)
        label = frames.find_element("tag name", "output").text
        slider.send_keys(selenium.Keys.HOME)
        (first,) = shown(frames)
        assert first != last
        assert frames.find_element("tag name", "output").text != label

    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = {
        message["params"]["request"]["url"].split(":")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert requested <= {"file", "data"}

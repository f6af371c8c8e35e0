"""A headless browser for tests of pages."""

import os
import shutil

import pytest

from pyro_models import plots


@pytest.fixture(scope="session")
def chromium():
    """The system's browser; without one tests are skipped, and fail where CI=true says that there must be one."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        message = "there is no chromium to look at pages with: apt-get install chromium"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    from playwright.sync_api import sync_playwright  # takes seconds, of every collection

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def quick_embedding(monkeypatch):
    """t-SNE takes a second of each page; tests/plots has its own test."""
    monkeypatch.setattr(plots, "tsne", lambda points: points[:, :2])


@pytest.fixture(scope="session")
def tab(chromium):
    """One for all pages: another one takes the browser as long as a page."""
    tab = chromium.new_page(has_touch=True)
    tab.set_default_timeout(30_000)
    return tab


@pytest.fixture
def page(tab):
    """A page that fails the test if it says anything on the console or asks for anything but one file from disk."""
    said = []
    listeners = {
        "console": lambda message: said.append(message.text),
        "pageerror": lambda error: said.append(str(error)),
        "request": lambda request: said.append(request.url),
    }
    tab.set_viewport_size({"width": 1280, "height": 720})
    tab.emulate_media(color_scheme="light")
    for event, listener in listeners.items():
        tab.on(event, listener)
    yield tab
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
    tab.goto("about:blank")
    assert all(one.startswith("file://") and one.endswith("/report.html") for one in said), said
    assert len(said) <= 1


def accessibility_faults(page, contrast=True):
    """What axe-core finds serious or critical of a page; measuring the contrast takes it most of its time."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"resultTypes": ["violations"], "rules": {"color-contrast": {"enabled": contrast}}}
    return [
        (fault["id"], fault["help"], [part["html"][:200] for part in fault["nodes"]])
        for fault in Axe().run(page, options=options).response["violations"]
        if fault["impact"] in ("serious", "critical")
    ]

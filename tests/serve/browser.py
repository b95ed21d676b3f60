"""A real Chromium for the page's tests: one for each file, with an empty storage for each test."""

import contextlib
import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

from seekjax.serve.page import HEADERS
from tests.serve.page_server import app, serving

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

# Before the page's own scripts: empty the storage at the address of a first visit, and keep what
# the content policy refuses for the test to read.
FRESH = "?fresh"
WATCH = """
if (location.search === "?fresh") {
  localStorage.clear();
  sessionStorage.clear();
  history.replaceState(null, "", "/");
}
window.refused = [];
addEventListener("securitypolicyviolation", (event) => {
  refused.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
});
"""


def chromium() -> str:
    """Return the path of a Chromium; skips the test if this machine has none."""
    path = os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)
    if not path:
        pytest.skip("no Chromium here: install Debian's `chromium`, or name one in CHROME")
    return path


@contextlib.contextmanager
def launched():
    """Yield a browser, and end it."""
    path = chromium()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def server():
    """The server of page_server.py: its application, with its address in `state.url`."""
    application = app()
    with pytest.MonkeyPatch.context() as patch, serving(application) as url:
        # its own header would have the tab ask for each script of each visit again
        patch.setitem(HEADERS, "cache-control", "max-age=600")
        application.state.url = url
        yield application


@pytest.fixture(scope="module")
def tab(browser):
    """The one tab of a file of tests: its scripts are fetched and compiled once."""
    context = browser.new_context()
    context.set_default_timeout(5000)
    context.add_init_script(WATCH)
    tab = context.new_page()
    tab.failures = []
    tab.requests = []
    tab.on("pageerror", lambda error: tab.failures.append(str(error)))
    tab.on("request", lambda request: tab.requests.append(request.url))
    return tab


@pytest.fixture
def page(tab, server):
    """The page as at the first visit; a failure of a script or of the policy fails the test."""
    server.state.requests.clear()
    server.state.stopped.clear()
    server.state.gates = 0
    tab.set_viewport_size({"width": 1200, "height": 800})
    tab.emulate_media(color_scheme="light")
    tab.goto(server.state.url + FRESH)
    tab.get_by_text("step 2,000").wait_for()

    yield tab
    assert tab.evaluate("refused") == []
    assert tab.failures == []


def ask(page, question):
    """Write a question, and send it by Enter."""
    page.get_by_label("Question", exact=True).fill(question)
    page.keyboard.press("Enter")


def answered(page, question):
    """Ask, and wait for the end of the answer; returns it."""
    before = page.locator(".answer").count()
    ask(page, question)
    answer = page.locator(".answer").nth(before)
    answer.locator(".figures").wait_for(state="attached")
    return answer


def choose(answer, view):
    """Choose the view of an answer's tokens."""
    answer.get_by_role("radio", name=view).check()


def wait_for(page, condition):
    """Wait up to two seconds for something outside the browser."""
    for _ in range(100):
        if condition():
            return
        page.wait_for_timeout(20)
    raise AssertionError("it has not come")

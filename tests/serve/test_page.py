"""The chat page: its files and their headers here, what it does in a browser in test_page_*.py."""

import re

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from seekjax.serve import page
from tests.scripts import words

FILES = sorted(path for path in page.FOLDER.iterdir() if path.suffix in page.TYPES)
SCRIPTS = [path for path in FILES if path.suffix == ".js"]

# Ways from text to markup or code, and addresses elsewhere.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|createContextualFragment"
    r"|setHTML|\beval\(|new Function|\.style\s*=|\bonclick=|style=\""
)
ADDRESS = re.compile(r"(?:https?:)?//[a-z0-9][\w.-]*\.[a-z]{2,}")
OWN = {"http://www.w3.org"}  # the name of SVG, which is never loaded


@pytest.fixture(scope="module")
def client():
    with TestClient(Starlette(routes=page.routes())) as client:
        yield client


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_have_one_subject_and_fit_a_line(path):
    lines = path.read_text().splitlines()
    assert len(lines) < 400
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("// ")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_words_are_plain(path):
    text = path.read_text()
    assert not [word for word in words.INSTEAD if re.search(word, text)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_turns_text_into_markup_or_calls_elsewhere(path):
    text = path.read_text()
    assert not FORBIDDEN.search(re.sub(r"^\s*//.*$", "", text, flags=re.M))
    assert set(ADDRESS.findall(text)) <= OWN


def test_every_file_is_served_under_the_policy(client):
    for path in FILES:
        address = "/" if path.name == "index.html" else f"/page/{path.name}"
        response = client.get(address)
        assert response.content == path.read_bytes()
        assert response.headers["content-type"] == page.TYPES[path.suffix]
        assert response.headers["content-security-policy"] == page.POLICY
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"


def test_the_policy_allows_this_host_alone():
    sources = dict(part.split(" ", 1) for part in page.POLICY.split("; "))
    assert sources["default-src"] == "'none'"
    assert {sources[f"{kind}-src"] for kind in ("script", "style", "connect")} == {"'self'"}
    assert sources["img-src"] == "'self' data:"
    assert {sources[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}


def test_an_unchanged_file_is_not_sent_again(client):
    tag = client.get("/page/app.js").headers["etag"]
    again = client.get("/page/app.js", headers={"if-none-match": tag})
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["content-security-policy"] == page.POLICY


def test_other_files_are_not_served(client):
    assert client.get("/page/__init__.py").status_code == 404
    assert client.get("/page/../__init__.py").status_code == 404
    assert client.post("/").status_code == 405

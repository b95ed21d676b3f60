"""A model's text on the page: never markup, and Markdown as CommonMark has it."""

import re
from html.parser import HTMLParser
from typing import ClassVar

import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import expect

from tests.serve.browser import answered, browser, choose, page, server, tab
from tests.serve.page_server import HOSTILE, WELCOME

__all__ = ["browser", "page", "server", "tab"]
pytestmark = pytest.mark.slow


def test_hostile_text_stays_text(page, server):
    page.requests.clear()
    answer = answered(page, "hostile")
    page.locator(".thinking-button").click()
    expect(answer.locator(".body code").first).to_contain_text("window.ran = 5")

    # Nothing ran, nothing was loaded, and every element is of those that Markdown makes.
    assert page.evaluate("window.ran") is None
    assert {url.split("?")[0] for url in page.requests} <= {
        server.state.url + "v1/chat/completions"
    }
    tags = "Array.from(document.querySelectorAll('#thread *'), (node) => node.localName)"
    allowed = "article section div span p a br code strong pre figure figcaption button svg path"
    allowed += " table thead tbody tr th td fieldset legend label input"
    assert set(page.evaluate(tags)) <= set(allowed.split())

    # The tags can be read, and one link of all is a link.
    text = answer.locator(".body").inner_text()
    for literal in ("<script>", "onerror=", "</pre>", "<b>cell</b>", "<iframe", "<style>", "&lt;"):
        assert literal in text
    links = answer.locator("a")
    expect(links).to_have_count(2)
    expect(links.first).to_have_attribute("href", "https://example.org/a_(b)")
    expect(links.first).to_have_attribute("rel", "noopener noreferrer nofollow")
    for view in ("Probability", "Draft", "Experts"):
        choose(answer, view)
        assert set(page.evaluate(tags)) <= {*allowed.split(), "output"}


def test_a_questions_title_and_settings_are_text(page):
    answered(page, "brief <img src=x onerror='window.ran=1'>")
    expect(page.locator(".chat .title")).to_have_text("brief <img src=x onerror='window.ran=1'>")
    assert page.locator("#thread img, #sidebar img").count() == 0


def test_the_policy_refuses_markup_made_of_text(page):
    sentence = page.evaluate(
        "() => { try { document.body.innerHTML = '<b>'; return ''; }"
        " catch (error) { return error.message; } }"
    )
    assert "TrustedHTML" in sentence
    page.evaluate("refused.length = 0")


# Markdown, next to an implementation of CommonMark

DOCUMENTS = [
    "# One\n## Two ##\ntext *em* **strong** ***both*** ~~gone~~ `a*b*` __s__ _e_ a_b_c",
    "- one\n- two\n  - inner *em*\n  - inner\n- three\n\nafter",
    "1. one\n2. two\n\n   further\n3. three",
    "3) three\n4) four",
    "> quote\n> of two lines\n>\n> > inner\n\nafter",
    "```python\nx = '<b>'\n\n**no**\n```\nafter `` a ` b ``",
    "~~~\nplain\n~~~",
    "| a | b |\n|:--|--:|\n| `x\\|y` | **z** |\n| 1 | \\| |",
    "[text](https://a.org/b) <https://c.org/d> \\*no\\* a * b * c 2 * 3",
    '[a *b* c](https://a.org/ "title") [no](javascript:x) [x]',
    "one\ntwo\n\n---\n\nthree",
    "- a\n\n- b\n\n  ```\n  code\n    indented\n  ```\n",
    "**bold *and* more** *a **b** c* **un*closed",
]


def test_markdown_agrees_with_commonmark(page):
    parser = MarkdownIt("commonmark", {"breaks": True, "html": False})
    parser.enable(["table", "strikethrough"])
    shown = page.evaluate(
        """async (texts) => {
          const { Markdown } = await import("/page/markdown.js");
          return texts.map((text) => {
            const root = document.createElement("div");
            new Markdown(root).show(text);
            return root.innerHTML;
          });
        }""",
        DOCUMENTS,
    )
    for text, html in zip(DOCUMENTS, shown):
        assert skeleton(html) == skeleton(parser.render(text)), text


def test_a_growing_text_is_shown_as_if_it_came_at_once(page):
    different = page.evaluate(
        """async (texts) => {
          const { Markdown } = await import("/page/markdown.js");
          const draw = (root, text) => (new Markdown(root).show(text), root.innerHTML);
          const different = [];
          for (const text of texts) {
            const root = document.createElement("div");
            const growing = new Markdown(root);
            for (let end = 0; end < text.length + 3; end += 3) {
              growing.show(text.slice(0, end));
              const whole = draw(document.createElement("div"), text.slice(0, end));
              if (root.innerHTML !== whole) {
                different.push([text.slice(0, end), root.innerHTML, whole]);
              }
            }
          }
          return different;
        }""",
        [*DOCUMENTS, HOSTILE, WELCOME],
    )
    assert different == []


def test_no_text_takes_time_that_grows_with_its_square(page):
    # Of a quadratic step each of these would take minutes.
    texts = "* | ** |*a|_a |[|](|[a](|![|`|` `` |$|$$|\\(|<|> |- |1. |#|~~|(|http://|.||| |\t|\n"
    lengths = page.evaluate(
        """async (texts) => {
          const { Markdown } = await import("/page/markdown.js");
          return texts.map((text) => {
            const root = document.createElement("div");
            new Markdown(root).show("x" + text.repeat(20000 / text.length) + "x");
            new Markdown(root).show(text.repeat(20000 / text.length));
            return root.childElementCount;
          });
        }""",
        [text for text in texts.split("|") if text],
    )
    assert len(lengths) > 20


class Skeleton(HTMLParser):
    """The elements and texts of some HTML, without what the page adds for looks and access."""

    TAGS: ClassVar = {"s": "del"}
    LOOKS = ("div", "figure", "figcaption", "button", "svg", "path", "span", "thead", "tbody")

    def __init__(self):
        super().__init__()
        self.parts = []
        self.in_caption = False

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.in_caption = self.in_caption or tag == "figcaption"
        # the first text of an item may be a paragraph or not
        if tag in self.LOOKS or (tag == "p" and self.parts[-1:] == [("li",)]):
            return

        if re.fullmatch("h[1-6]", tag):
            tag = attributes.get("class", tag)
        kept = [attributes[name] for name in ("href", "start") if name in attributes]
        self.parts.append((self.TAGS.get(tag, tag), *kept))

    def handle_endtag(self, tag):
        self.in_caption = self.in_caption and tag != "figcaption"

    def handle_data(self, data):
        text = " ".join(data.split())
        if text and not self.in_caption:
            if self.parts and isinstance(self.parts[-1], str):
                text = f"{self.parts.pop()} {text}"
            self.parts.append(text)


def skeleton(html):
    parser = Skeleton()
    parser.feed(html)
    return parser.parts

"""The page in a real browser: asking, thinking, stopping, versions, what is kept, failures."""

import json
import re
from html.parser import HTMLParser
from typing import ClassVar

import pytest

from tests.serve.browser import answered, ask, browser, page, server, tab
from tests.serve.fake_engine import FakeEngine, byte_tokenizer, served_model
from tests.serve.page_server import HOSTILE, RUN, SENTENCE, THOUGHT, WELCOME
from tests.serve.running import make_api, server_of

__all__ = ["browser", "page", "server", "tab"]
pytestmark = pytest.mark.slow
expect = pytest.importorskip("playwright.sync_api", reason="pip install 'seekjax[test]'").expect


def wait_for(page, condition):
    """Wait up to two seconds for something outside the browser."""
    for _ in range(100):
        if condition():
            return
        page.wait_for_timeout(20)
    raise AssertionError("it has not come")


def test_an_answer_streams_and_its_thinking_folds(page, server):
    ask(page, "gated")
    thinking = page.locator(".thinking-button")
    thought = page.locator(".thinking-text")

    # Open while it arrives.
    expect(thinking).to_have_text("Thinking")
    expect(thinking).to_have_attribute("aria-expanded", "true")
    expect(thought).to_have_text("First a thought.")
    expect(page.locator(".answer")).to_have_attribute("aria-busy", "true")

    # Folded when the answer begins, which is there before it is complete.
    server.state.gates = 1
    expect(page.locator(".body")).to_have_text("Then an answer")
    expect(thinking).to_have_attribute("aria-expanded", "false")
    expect(thought).to_be_hidden()

    # From then on as the user leaves it, after the end and after a reload too.
    thinking.click()
    server.state.gates = 2
    expect(page.locator(".body")).to_have_text("Then an answer.")
    expect(page.locator(".figures")).to_contain_text("8 tokens")
    expect(thinking).to_contain_text("Thought for 0.")
    expect(thinking).to_contain_text("4 tokens")
    expect(thought).to_be_visible()
    page.reload()
    expect(thought).to_be_visible()


def test_what_the_user_folds_while_it_arrives_stays_folded(page, server):
    ask(page, "gated")
    page.locator(".thinking-button").click()
    expect(page.locator(".thinking-text")).to_be_hidden()
    server.state.gates = 2
    expect(page.locator(".body")).to_have_text("Then an answer.")
    expect(page.locator(".thinking-text")).to_be_hidden()


def test_without_thinking_nothing_of_it_is_drawn(page, server):
    page.get_by_role("button", name="Thinking").click()
    answered(page, "What is latent attention?")
    assert server.state.requests[-1]["thinking"] == {"type": "disabled"}
    expect(page.locator(".thinking")).to_be_hidden()


def test_stopping_ends_the_request(page, server):
    ask(page, "slow")
    expect(page.locator(".thinking-text")).to_contain_text("thinking thinking")
    page.get_by_role("button", name="Stop the answer").click()
    expect(page.locator(".note")).to_have_text("You stopped this answer.")
    expect(page.get_by_role("button", name="Send")).to_be_visible()

    # The server has seen the end of the connection long before its last token.
    wait_for(page, lambda: server.state.stopped)
    assert server.state.stopped[0] < 200


def test_another_answer_and_an_edited_question_are_versions(page, server):
    answered(page, "brief one")
    answered(page, "brief two")
    roles = [message["role"] for message in server.state.requests[-1]["messages"]]
    assert roles == ["user", "assistant", "user"]

    # Another answer to the same question.
    page.locator(".answer").nth(1).get_by_role("button", name="Write another answer").click()
    last = page.locator(".answer").nth(1)
    expect(last.locator(".versions")).to_contain_text("2/2")
    assert server.state.requests[-1]["messages"] == server.state.requests[-2]["messages"]

    # Another question in the place of the first: what followed stays with the first.
    page.locator(".question").first.hover()
    page.get_by_role("button", name="Edit the question").first.click()
    page.get_by_label("Edited question").fill("brief three")
    page.keyboard.press("Enter")
    expect(page.locator(".question")).to_have_count(1)
    expect(page.locator(".question .versions")).to_contain_text("2/2")
    messages = server.state.requests[-1]["messages"]
    assert messages == [{"role": "user", "content": "brief three"}]

    page.locator(".question").hover()
    page.locator(".question").get_by_role("button", name="Previous version").click()
    expect(page.locator(".question")).to_have_count(2)
    expect(page.locator(".answer").nth(1).locator(".versions")).to_contain_text("2/2")


def test_earlier_thinking_is_not_sent_again(page, server):
    answered(page, "What is latent attention?")
    answered(page, "brief")
    assert THOUGHT[:20] not in json.dumps(server.state.requests[-1]["messages"])


def test_chats_are_kept_named_saved_and_deleted(page):
    answered(page, "brief first chat")
    page.get_by_role("button", name="New chat").click()
    answered(page, "brief second chat")
    chats = page.get_by_role("navigation", name="Chats").locator(".chat")
    page.reload()
    expect(chats).to_have_text(["brief second chat", "brief first chat"])
    expect(page.locator(".body")).to_have_text("Yes.")

    page.get_by_role("button", name="Rename this chat").click()
    page.keyboard.type("Renamed <b>")
    page.keyboard.press("Enter")
    expect(chats.first).to_have_text("Renamed <b>")

    with page.expect_download() as download:
        page.get_by_role("button", name="Save this chat as JSON").click()
    saved = json.loads(download.value.path().read_text())
    assert download.value.suggested_filename == "Renamed-b-.json"
    assert saved["messages"][0] == {"role": "user", "content": "brief second chat"}
    assert saved["messages"][1]["content"] == "Yes."
    assert saved["messages"][1]["run"]["hash"] == "3f9a61c04b7e"

    page.get_by_role("button", name="Delete this chat").click()
    expect(chats).to_have_text(["brief first chat"])
    page.get_by_role("button", name="Undo").click()
    expect(chats).to_have_text(["Renamed <b>", "brief first chat"])


def test_an_answer_goes_on_while_another_chat_is_open(page, server):
    ask(page, "gated")
    page.get_by_role("button", name="New chat").click()
    answered(page, "brief")
    server.state.gates = 2
    page.locator(".chat", has_text="gated").click()
    expect(page.locator(".body")).to_have_text("Then an answer.")


def test_a_refusal_is_shown_with_a_retry(page, server):
    ask(page, "fail")
    alert = page.locator(".answer").get_by_role("alert")
    expect(alert).to_contain_text(SENTENCE)
    alert.get_by_role("button", name="Retry").click()
    expect(page.locator(".versions")).to_contain_text("2/2")
    assert len(server.state.requests) == 2

    # A question without an answer is not part of what follows.
    answered(page, "brief")
    assert server.state.requests[-1]["messages"] == [{"role": "user", "content": "brief"}]


def test_a_busy_server_says_when_to_come_back(page):
    ask(page, "busy")
    alert = page.locator(".answer").get_by_role("alert")
    expect(alert).to_contain_text("8 requests are waiting already. It asks to wait 7 s.")


def test_a_failure_in_the_middle_keeps_what_has_come(page):
    ask(page, "breaks")
    expect(page.locator(".answer").get_by_role("alert")).to_contain_text("The device was lost.")
    expect(page.locator(".thinking-text")).to_contain_text("The question is about")


def test_a_server_that_is_gone_is_said(page):
    page.route("**/v1/chat/**", lambda route: route.abort())
    ask(page, "brief")
    expect(page.locator(".answer").get_by_role("alert")).to_contain_text("cannot be reached")
    page.unroute("**/v1/chat/**")


def test_settings_are_sent_and_the_key_is_not_kept(page, server):
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("9")
    page.get_by_role("button", name="Done").click()
    expect(page.locator("#settings-error")).to_contain_text(
        "Temperature must be a number of 0 to 2"
    )
    page.get_by_label("Temperature").fill("0.6")
    page.get_by_label("Top-p").fill("0.95")
    page.get_by_label("Max tokens").fill("64")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_role("button", name="Done").click()

    answered(page, "brief")
    body = server.state.requests[-1]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    settings = {name: body[name] for name in ("temperature", "top_p", "max_tokens", "seed")}
    assert settings == {"temperature": 0.6, "top_p": 0.95, "max_tokens": 64, "seed": 7}

    # A missing key opens the settings at its field.
    ask(page, "key")
    key = page.get_by_label("API key")
    expect(key).to_be_focused()
    key.fill("s3cret")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".answer").last.locator(".body")).to_contain_text("Latent attention")
    assert "s3cret" not in page.evaluate("JSON.stringify(localStorage)")
    assert page.evaluate("sessionStorage['seekjax.key']") == "s3cret"


# A model's text is text


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
    markdown_it = pytest.importorskip("markdown_it")
    parser = markdown_it.MarkdownIt("commonmark", {"breaks": True, "html": False})
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


# The views of tokens


STRENGTHS = "nodes => nodes.map((node) => node.style.getPropertyValue('--strength'))"


def choose(answer, view):
    answer.get_by_role("radio", name=view).check()


def test_tokens_show_their_probabilities(page):
    answer = answered(page, "What is latent attention?")
    choose(answer, "Probability")
    tokens = answer.locator(".body .token")
    assert "".join(tokens.all_text_contents()) == WELCOME
    strengths = tokens.evaluate_all(STRENGTHS)
    assert len(set(strengths)) > 4
    expect(answer.locator(".legend")).to_contain_text("perplexity 1.")

    tip = page.get_by_role("tooltip")
    tokens.nth(3).hover()
    expect(tip).to_contain_text("Probability 97.0 %")
    expect(tip.locator("li")).to_have_count(4)
    assert tokens.nth(3).get_attribute("aria-describedby") == "tip"
    expect(tip.locator(".chosen")).to_contain_text("97.0 %")

    # One token is in the order of Tab; the arrows move.
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    expect(tip).to_be_visible()
    assert answer.locator(".body [tabindex='0']").count() == 1
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_the_views_are_there_after_a_reload(page):
    answer = answered(page, "brief")
    choose(answer, "Probability")
    page.reload()
    expect(answer.locator(".body .token")).to_have_count(2)
    choose(answer, "Experts")
    answer.locator(".body .token").first.hover()
    expect(page.get_by_role("tooltip")).to_contain_text("Expert layer 4")


def test_answers_and_code_can_be_copied(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answer = answered(page, "What is latent attention?")
    answer.get_by_role("button", name="Copy the code").click()
    code = re.search("```python\n(.*?)\n```", WELCOME, re.S).group(1)
    expect(page.locator("#announcer")).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == code
    answer.get_by_role("button", name="Copy the answer").click()
    page.wait_for_function(
        "text => navigator.clipboard.readText().then((t) => t === text)", arg=WELCOME
    )


def test_tokens_show_the_draft(page):
    answer = answered(page, "What is latent attention?")
    choose(answer, "Draft")
    tokens = answer.locator(".token")
    expect(answer.locator(".legend")).to_contain_text(f"of {tokens.count()} tokens, 33 %")
    assert answer.locator(".token.marked").count() == tokens.count() // 3
    answer.locator(".body .marked").first.hover()
    expect(page.get_by_role("tooltip")).to_contain_text("The draft guessed it")


def test_tokens_show_their_experts(page):
    answer = answered(page, "What is latent attention?")
    choose(answer, "Experts")
    answer.locator(".body .token").first.hover()
    tip = page.get_by_role("tooltip")
    expect(tip).to_contain_text("Expert layer 4: experts ")
    layers, _, chosen = RUN["experts"]
    expect(tip.locator(".layer")).to_have_count(layers)
    expect(tip.locator(".visited")).to_have_count(layers * chosen)

    # Another layer; then one expert of it, whose tokens alone keep their colour.
    answer.get_by_role("slider").fill("0")
    expect(answer.locator(".legend output")).to_have_text("1 of 6")
    chip = answer.locator(".expert").first
    chip.click()
    expect(chip).to_have_attribute("aria-pressed", "true")
    expect(chip).to_be_focused()
    colours = answer.locator(".token").evaluate_all(STRENGTHS)
    percent = round(100 * sum(map(float, colours)) / len(colours))
    expect(chip).to_contain_text(f"{percent} %")


def test_a_character_of_several_tokens_is_drawn_once(page):
    answer = answered(page, "bytes")
    expect(answer.locator(".body")).to_have_text("🙂 日本 ok")
    choose(answer, "Probability")
    texts = answer.locator(".body .token").all_text_contents()
    assert "".join(texts) == "🙂 日本 ok"
    assert "" in texts


def test_without_details_there_are_no_views(page, server):
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Ask for each token's").uncheck()
    page.get_by_role("button", name="Done").click()
    answer = answered(page, "brief")
    assert "logprobs" not in server.state.requests[-1]
    expect(answer.get_by_role("radio")).to_have_count(0)


# Keys, screen readers, sizes, colours


def test_keys_alone_are_enough(page):
    answered(page, "brief one")
    page.locator("#new-chat").press("Enter")
    question = page.get_by_label("Question", exact=True)
    expect(question).to_be_focused()
    page.keyboard.type("brief two")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("lines")
    expect(question).to_have_value("brief two\nlines")
    page.keyboard.press("Enter")
    expect(page.locator(".question-text")).to_have_text("brief two\nlines")

    # The arrows go through the chats, Enter opens one, and "/" goes back to the question.
    chats = page.locator(".chat")
    chats.first.focus()
    page.keyboard.press("ArrowDown")
    expect(chats.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".question-text")).to_have_text("brief one")
    page.locator("#open-settings").focus()
    page.keyboard.press("/")
    expect(question).to_be_focused()
    page.keyboard.type("a/b")
    expect(question).to_have_value("a/b")

    # What has the focus is outlined.
    page.keyboard.press("Shift+Tab")
    style = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(style) == "solid"


def test_while_a_word_is_composed_enter_does_not_send(page, server):
    page.get_by_label("Question", exact=True).fill("に")
    page.evaluate(
        "document.querySelector('#question').dispatchEvent(new KeyboardEvent('keydown',"
        " {key: 'Enter', isComposing: true, bubbles: true}))"
    )
    assert server.state.requests == []


def test_every_control_has_a_name(page):
    answer = answered(page, "What is latent attention?")
    choose(answer, "Experts")
    trees = [page.locator("body").aria_snapshot()]
    page.get_by_role("button", name="Settings").click()
    trees.append(page.get_by_role("dialog", name="Settings").aria_snapshot())
    controls = "button|textbox|combobox|checkbox|radio|slider|spinbutton|link|dialog|navigation"
    for tree in trees:
        lines = [line.strip() for line in tree.splitlines()]
        controlled = [line for line in lines if re.match(rf"- ({controls})\b", line)]
        assert len(controlled) > 8
        assert [line for line in controlled if '"' not in line] == []


def test_a_screen_reader_hears_paragraphs_and_the_end(page):
    answered(page, "What is latent attention?")
    log = page.locator("#announcer")
    expect(log).to_have_attribute("aria-live", "polite")
    lines = log.locator("p").all_text_contents()
    assert lines[0] == "Sent"
    assert lines[1].startswith("Latent attention keeps one vector per token instead")
    assert lines[-1] == "The answer is complete"


def test_a_phone_never_scrolls_sideways(page):
    page.set_viewport_size({"width": 360, "height": 740})
    answer = answered(page, "What is latent attention?" + "m" * 200)
    answer.locator(".thinking-button").click()
    for view in ("Plain", "Probability", "Draft", "Experts"):
        choose(answer, view)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate("document.querySelector('#main').scrollWidth") <= 360


def test_on_a_phone_the_chats_are_a_panel(page):
    page.set_viewport_size({"width": 360, "height": 740})
    button = page.get_by_role("button", name="List of chats", exact=True)
    chats = page.get_by_role("button", name="New chat")
    expect(chats).to_be_hidden()
    button.click()
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(page.get_by_role("button", name="Close the list")).to_be_focused()
    expect(chats).to_be_visible()
    page.keyboard.press("Escape")
    expect(chats).to_be_hidden()
    expect(button).to_be_focused()


CONTRASTS = """
() => {
  const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = rgb(color).slice(0, 3).map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    const color = getComputedStyle(node).backgroundColor;
    const [, , , alpha = 1] = rgb(color);
    return alpha > 0 ? color : behind(node.parentElement);
  };
  const texts = "p, h2, h3, li, td, th, a, code, .chat .title, button span, .segments span";
  return Array.from(document.querySelectorAll(texts))
    .filter((node) => node.offsetParent && node.textContent.trim())
    .map((node) => {
      const pair = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => b - a);
      return [(pair[0] + 0.05) / (pair[1] + 0.05), node.textContent.slice(0, 30)];
    });
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast_in_light_and_dark(page, scheme):
    page.emulate_media(color_scheme=scheme)
    answered(page, "What is latent attention?")
    page.locator(".thinking-button").click()
    answered(page, "hostile")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 24, 27)"
    assert dark == (scheme == "dark")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 20
    assert [row for row in contrasts if row[0] < 4.5] == []


def test_the_user_may_choose_dark(page):
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("radio", name="Dark").check()
    page.get_by_role("button", name="Done").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 24, 27)"


def test_reduced_motion_is_respected(page):
    page.emulate_media(reduced_motion="reduce")
    ask(page, "slow")
    button = page.locator(".thinking.busy .thinking-button span")
    assert button.evaluate("node => getComputedStyle(node).animationName") == "none"
    page.keyboard.press("Escape")
    page.emulate_media(reduced_motion="no-preference")


# Over the server itself


def test_the_page_and_the_server_agree(page):
    engine = FakeEngine(byte_tokenizer(), "A thought.</think>\n\n日本 **sir**", speed=5)
    api = make_api(engine, served_model(engine.tokenizer, template="r1"))
    with server_of(api, keys=["s3cret"]) as url:
        page.goto(url)
        key = page.get_by_label("API key")
        expect(key).to_be_focused()
        key.fill("s3cret")
        page.keyboard.press("Enter")
        expect(page.locator("#run")).to_have_text("tinystep 1,2000123456789ab")

        # Thinking, text, and tokens that make it up.
        answer = answered(page, "Who?")
        expect(answer.locator(".thinking-button")).to_contain_text("tokens")
        expect(answer.locator(".body")).to_have_text("日本 sir")
        assert engine.requests[-1].sampling.top_logprobs == 5
        for view in ("Probability", "Draft", "Experts"):
            choose(answer, view)
            text = "".join(answer.locator(".body .token").all_text_contents())
            assert text.strip().startswith("日本 **sir**")
        answer.locator(".body .token", has_text="s").first.hover()
        expect(page.get_by_role("tooltip").locator(".visited")).to_have_count(4)

        # Stopping frees the request.
        engine.script = "no end " * 500
        engine.delay = 0.01
        ask(page, "Go on.")
        expect(page.locator(".answer").last.locator(".thinking-text")).to_contain_text("no end")
        page.keyboard.press("Escape")
        expect(page.locator(".note").last).to_have_text("You stopped this answer.")
        wait_for(page, lambda: engine.cancelled)

        # The server's own sentence.
        page.get_by_role("button", name="New chat").click()
        ask(page, "long " * 2000)
        alert = page.locator(".answer").get_by_role("alert")
        expect(alert).to_contain_text("this model's context holds 4,096")

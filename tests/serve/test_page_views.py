"""The page's views of tokens; keyboard, screen reader, phone, contrast."""

import re

import pytest
from playwright.sync_api import expect

from tests.serve.browser import answered, ask, browser, choose, page, server, tab, wait_for
from tests.serve.fake_engine import FakeEngine, byte_tokenizer, served_model
from tests.serve.page_server import RUN, WELCOME
from tests.serve.running import make_api, server_of

__all__ = ["browser", "page", "server", "tab"]
pytestmark = pytest.mark.slow


# The views of tokens


STRENGTHS = "nodes => nodes.map((node) => node.style.getPropertyValue('--strength'))"


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

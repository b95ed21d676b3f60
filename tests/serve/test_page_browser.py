"""The page in a real browser: asking, thinking, stopping, versions, what is kept, failures."""

import json

import pytest
from playwright.sync_api import expect

from tests.serve.browser import answered, ask, browser, page, server, tab, wait_for
from tests.serve.page_server import SENTENCE, THOUGHT

__all__ = ["browser", "page", "server", "tab"]
pytestmark = pytest.mark.slow


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

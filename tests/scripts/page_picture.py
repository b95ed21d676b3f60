"""Photograph the chat page for docs/page.png, in a real Chromium.

    python -m tests.scripts.page_picture

The answers are written below, and their probabilities and experts are made up: the picture is of
the page, not of a model.
"""

from pathlib import Path

from tests.serve.browser import answered, launched
from tests.serve.page_server import app, serving

PICTURE = Path(__file__).parents[2] / "docs" / "page.png"
SIZE = {"width": 1240, "height": 860}
EARLIER = ["Write a haiku about carries", "Prove that sqrt(2) is irrational"]

THOUGHT = """Plain attention keeps a key and a value of 128 numbers for each of 128 heads: 32,768.

The latent has 512 numbers, and the rotary key 64. That is 576, or 57 times less."""

TABLE = """It keeps **one latent vector per token**, from which every head's key and value is made:

| attention | numbers per token and layer |
|---|---:|
| multi-head, 128 heads | 32,768 |
| grouped, 8 groups | 2,048 |
| latent | 576 |
"""

SENTENCE = """Keys and values of all heads are linear in the latent, so the cache holds the latent \
and one rotary key, and `w_uk` moves to the side of the query."""

SCRIPTS = {
    "Why": (THOUGHT, TABLE, 0.002),
    "Say": ("", SENTENCE, 0.01),
    "Write": ("", "One and one make two.", 0.0),
    "Prove": ("", "Suppose it were.", 0.0),
}


def main() -> None:
    with serving(app(SCRIPTS)) as url, launched() as browser:
        page = browser.new_page(viewport=SIZE)
        page.goto(url)
        for question in EARLIER:
            answered(page, question)
            page.get_by_role("button", name="New chat").click()

        answered(page, "Why is the cache of latent attention small?")
        page.locator(".thinking-button").click()
        answer = answered(page, "Say it in one sentence.")
        answer.get_by_role("radio", name="Experts").check()
        page.locator("#main").evaluate("node => node.scrollTop = node.scrollHeight")
        answer.locator(".body .token", has_text="latent").first.hover()
        page.screenshot(path=PICTURE)
    print(f"written: {PICTURE.name}, {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

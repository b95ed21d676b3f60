"""A model behind the protocols of the tools that people have: OpenAI's, Anthropic's, and a page.

`app.py` puts the routes together; `service.py` owns the engine. Each protocol is one file with
`read(body, served)`, which returns the Conversation and the Writer of its answer.
"""

from seekjax.errors import UsageError
from seekjax.extras import import_extra

for _package in ("starlette", "uvicorn", "llguidance"):
    import_extra(_package, "serve", "the server", UsageError)

"""A model behind the protocols of the tools that people have: OpenAI's, Anthropic's, and a page.

`app.py` puts the routes together; `service.py` owns the engine. Each protocol is one file with
`read(body, served)`, which returns the Conversation and the Writer of its answer.
"""

"""One run per file: `config` says only what differs from the defaults; the docstring says how to
run it and what to expect.
"""

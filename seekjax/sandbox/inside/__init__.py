"""What runs inside the sandbox, started as `python harness.py`.

It imports the standard library alone, and little of it: every program waits for its start.
"""

"""What runs inside the sandbox, started as `python harness.py`: the standard library alone, and
little of it, as every program waits for its start."""

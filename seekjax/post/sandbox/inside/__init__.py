"""What runs inside the sandbox, by `python FOLDER`: the standard library alone, and little of it, since every program graded waits for it to start."""

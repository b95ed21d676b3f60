"""`python -m seekjax.sandbox`: print which sandbox works here, or fail with the reasons."""

import sys

from seekjax.errors import SandboxError
from seekjax.sandbox import find_backend


def main() -> int:
    """Print the backend's name, and return the exit status."""
    try:
        backend = find_backend()
    except SandboxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(backend[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())

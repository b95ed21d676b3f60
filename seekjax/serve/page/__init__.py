"""The chat page: static files of this folder, each served under a strict content policy.

The page loads nothing from elsewhere. By `POLICY` the browser runs the scripts of this server alone
and refuses markup made from text, so a model's text cannot become a script.
"""

import hashlib
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Assigning text to innerHTML and its like is an error in this page.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # asks each time; an unchanged file is answered with 304
}

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


FILES = {path.name: path for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}


def routes() -> list[Route]:
    """Return the routes of the page: `/` is index.html, and `/page/NAME` each file."""
    contents = {name: path.read_bytes() for name, path in FILES.items()}

    async def index(request: Request) -> Response:
        return answer(request, "index.html", contents["index.html"])

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in contents:
            raise HTTPException(404)
        return answer(request, name, contents[name])

    return [Route("/", index, methods=["GET"]), Route("/page/{name}", file, methods=["GET"])]


def answer(request: Request, name: str, content: bytes) -> Response:
    """Return a file, or 304 without it if the browser's copy is the same."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {**HEADERS, "etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=TYPES[FILES[name].suffix], headers=headers)

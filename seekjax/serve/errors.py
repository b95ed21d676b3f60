"""The refusal of a request: a sentence and an HTTP status, and the forms in which they leave."""

from typing import Any

from seekjax.errors import SeekjaxError

# OpenAI's `type` of an error by its HTTP status
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
}
# Anthropic's
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


class RequestError(SeekjaxError):
    """A request cannot be served, in one sentence.

    Attributes:
        http: The status of the response.
        param: The field of the request that is wrong, as `messages[1].content`; "" for none.
        code: A word for programs, as `context_length_exceeded`; "" for none.
        retry_after: Seconds until another try may succeed; 0 = it will not by itself.
    """

    def __init__(
        self,
        sentence: str,
        http: int = 400,
        param: str = "",
        code: str = "",
        retry_after: int = 0,
    ):
        super().__init__(sentence)
        self.http = http
        self.param = param
        self.code = code
        self.retry_after = retry_after


def need_field(
    condition: object,
    param: str,
    sentence: str,
) -> None:
    """Raise RequestError about a field, with status 400, unless the condition holds."""
    if not condition:
        raise RequestError(f"{param} {sentence}", param=param)


def defect() -> RequestError:
    """Return what a client gets for an error that is not a RequestError; the caller logs it."""
    sentence = "the server failed on this request; its log says why."
    return RequestError(sentence, http=500, code="internal_error")


def openai_error(error: RequestError) -> dict[str, Any]:
    """Return the body of a response in OpenAI's form."""
    fields = {
        "message": str(error),
        "type": TYPES.get(error.http, "invalid_request_error"),
        "param": error.param or None,
        "code": error.code or None,
    }
    return {"error": fields}


def anthropic_error(error: RequestError) -> dict[str, Any]:
    """Return the body of a response in Anthropic's form, or the data of its event `error`."""
    kind = ANTHROPIC_TYPES.get(error.http, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": str(error)}}

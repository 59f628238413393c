"""Heads of prediction requests: what sort of request it is."""

from __future__ import annotations

Headers = list[tuple[bytes, bytes]]

_JSON_LENGTH = b"inference-header-content-length"
_ELSEWHERE = frozenset({_JSON_LENGTH, b"ce-specversion", b"content-encoding"})
"""Headers of requests that are not plain JSON."""

_JSON_TYPES = frozenset({b"application/json", b"application/x-www-form-urlencoded", b"text/json", b""})


def told(headers: Headers) -> tuple[bytes | None, int, bool, bytes | None]:
    """What a prediction request's headers say.

    Returns:
        The caller's mark; length of the body; whether it is plain JSON; length of the JSON before binary tensors.
    """
    mark, length, plain, json_length = None, 0, True, None
    for name, value in headers:
        if name == b"x-request-id":
            mark = value
        elif name == b"content-length":
            length = int(value)
        elif name in _ELSEWHERE or (name == b"content-type" and not _is_json(value)):
            plain = False
            if name == _JSON_LENGTH:
                json_length = value
    return mark, length, plain, json_length


def unreadable(body: bytes, json_length: bytes) -> str:
    """What is wrong with binary tensors, if anything: KServe, which answers them, takes it for a fault of its own."""
    from kserve import InferRequest

    if not json_length.isdigit() or len(json_length) > 10 or int(json_length) > len(body):
        return "Inference-Header-Content-Length must be the number of bytes of the body's JSON part"
    try:
        InferRequest.from_bytes(body, int(json_length), "")
    except Exception as error:  # whatever reading it raises, its sender has to mend it
        return f"the binary tensors can't be read: {error}"
    return ""


def _is_json(content_type: bytes) -> bool:
    """Whether to read the body as JSON: also where the sender's library has named a form's type by default."""
    return content_type.partition(b";")[0].strip().lower() in _JSON_TYPES

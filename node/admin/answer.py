"""What all resources of the admin API share: JSON out, and what comes with a request in."""

from __future__ import annotations

from typing import Any, TypeVar

import falcon
import msgspec

BODY_BYTES_MAX = 8 << 20
Body = TypeVar("Body")


def answer(response: falcon.Response, value: Any) -> None:
    response.content_type = "application/json"
    response.data = msgspec.json.encode(value)


def body(request: falcon.Request, kind: type[Body]) -> Body:
    """What came with the request, in JSON. Raises HTTPError."""
    content = request.bounded_stream.read(BODY_BYTES_MAX + 1)
    if len(content) > BODY_BYTES_MAX:
        raise falcon.HTTPContentTooLarge(
            description=f"it is larger than {BODY_BYTES_MAX} bytes, so nothing was changed: give it in parts"
        )
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise falcon.HTTPBadRequest(description=f"the body cannot be read, so nothing was changed: {error}") from error

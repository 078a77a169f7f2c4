"""An ASGI function, msgspec and ONNX Runtime: what serving must cost at least."""

from starlette_app import Answer, decode, encode, session
from taxi import run


async def app(scope, receive, send) -> None:
    if scope["type"] != "http":
        return
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    answer = encode(Answer(run(session, decode(body).rows)))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})

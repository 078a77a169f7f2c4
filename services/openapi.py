"""The OpenAPI document of the service's own paths, made from the champion's contract."""

from typing import Any

import msgspec

from models.bundle import Card
from models.contract.rows import RowDecoder, example_row
from services.access import ANY_KEY, ANYBODY, DEADLINE, wanted
from services.messages import (
    ErrorAnswer,
    FeedbackAnswer,
    FeedbackRequest,
    Liveness,
    ModelAnswer,
    PredictAnswer,
    Readiness,
)

_ERRORS = {
    400: "The body is not JSON, or the deadline no number.",
    401: "No key came, or none that is known.",
    403: "The key is not for this.",
    404: "Some ids are unknown; the other labels are kept.",
    409: "Some ids stand for other rows, or labels contradict earlier ones; what was recorded first stays.",
    413: "Too many rows, or too large a body.",
    415: "The body is a pickle.",
    422: "The contract is broken; nothing is recorded.",
    429: "Too many requests at a time, or of this key a second. Try again after `Retry-After` seconds.",
    500: "The service failed; nothing is recorded.",
    503: "Too much waits, or no record can be written; nothing is answered. Try again after `Retry-After` seconds.",
    504: "Not answered in time.",
}
_PREDICT = (400, 409, 413, 415, 422, 429, 500, 503, 504)
_FEEDBACK = (400, 404, 409, 413, 415, 422, 429, 503, 504)
_DEADLINE = {
    "name": DEADLINE.decode(),
    "in": "header",
    "description": "Milliseconds that you will still wait; what comes later is not answered.",
    "schema": {"type": "integer", "minimum": 0, "maximum": 10**9},
}
_REFERENCE = "#/components/schemas/{name}"


def document(card: Card, decoder: RowDecoder, asks_for_keys: bool) -> dict[str, Any]:
    """Describe the paths as OpenAPI 3.1."""
    kinds = (
        decoder.request,
        PredictAnswer,
        FeedbackRequest,
        FeedbackAnswer,
        ModelAnswer,
        Liveness,
        Readiness,
        ErrorAnswer,
    )
    _, schemas = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    example = {"rows": [example_row(decoder.contract)]}
    paths: dict[str, dict[str, Any]] = {
        "/v1/predict": {
            "post": _operation("predict", "Predict rows.", PredictAnswer, _PREDICT)
            | {"parameters": [_DEADLINE], "requestBody": _body(decoder.request, example)}
        },
        "/v1/feedback": {
            "post": _operation("feedback", "Tell what was true.", FeedbackAnswer, _FEEDBACK)
            | {"parameters": [_DEADLINE], "requestBody": _body(FeedbackRequest)}
        },
        "/v1/model": {"get": _operation("model", "What answers now.", ModelAnswer)},
        "/livez": {"get": _operation("livez", "Whether the process answers.", Liveness)},
        "/readyz": {"get": _operation("readyz", "Whether requests are answered.", Readiness)},
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Prometheus metrics.",
                "responses": {"200": {"description": "OK", "content": {"text/plain": {}}}},
            }
        },
    }
    components: dict[str, Any] = {"schemas": schemas}
    if asks_for_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in paths.items():
            for operation in methods.values():
                _secure(operation, wanted(path))
    about = {"title": card.model, "version": card.version}
    return {"openapi": "3.1.0", "info": about, "paths": paths, "components": components}


def _secure(operation: dict[str, Any], scope: str) -> None:
    """Say which key an operation wants."""
    if scope == ANYBODY:
        return
    operation["security"] = [{"key": [] if scope == ANY_KEY else [scope]}]
    for status in (401, 429) if scope == ANY_KEY else (401, 403, 429):
        operation["responses"][str(status)] = _content(ErrorAnswer, _ERRORS[status])


def _operation(name: str, summary: str, answer: type, errors: tuple[int, ...] = ()) -> dict[str, Any]:
    responses = {"200": _content(answer, "OK")}
    responses |= {str(status): _content(ErrorAnswer, _ERRORS[status]) for status in errors}
    return {"operationId": name, "summary": summary, "responses": responses}


def _body(kind: type, example: object = None) -> dict[str, Any]:
    content = {"schema": {"$ref": _REFERENCE.format(name=kind.__name__)}}
    if example is not None:
        content["example"] = example  # type: ignore[assignment]
    return {"required": True, "content": {"application/json": content}}


def _content(kind: type, description: str) -> dict[str, Any]:
    schema = {"$ref": _REFERENCE.format(name=kind.__name__)}
    return {"description": description, "content": {"application/json": {"schema": schema}}}

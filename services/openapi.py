"""The OpenAPI document of the service's own paths, made from the champion's contract."""

from typing import Any

import msgspec

from models.bundle import Card
from models.contract import arrow
from models.contract.columns import Number
from models.contract.rows import RowDecoder, example_row
from services import streaming
from services.access import ANY_KEY, ANYBODY, DEADLINE, MOST_MS, wanted
from services.messages import (
    ClassifyAnswer,
    ErrorAnswer,
    FeedbackAnswer,
    FeedbackRequest,
    Liveness,
    ModelAnswer,
    PredictAnswer,
    Readiness,
)
from services.open_inference import (
    InferenceAnswer,
    InferenceRequest,
    Live,
    ModelMetadata,
    ProtocolError,
    Ready,
    ServerMetadata,
    example_request,
)

_ERRORS = {
    400: "The body is not JSON, or the deadline no number.",
    401: "No key came, or none that is known.",
    403: "The key is not for this.",
    404: "Some ids are unknown; the other labels are kept.",
    409: "Some ids stand for other rows, or labels contradict earlier ones; what was recorded first stays.",
    413: "Too many rows, or too large a body.",
    415: "The body is a pickle, or compressed.",
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
    "schema": {"type": "integer", "minimum": 0, "maximum": MOST_MS},
}
_KINDS = (
    FeedbackRequest,
    FeedbackAnswer,
    ModelAnswer,
    Liveness,
    Readiness,
    ErrorAnswer,
    InferenceRequest,
    InferenceAnswer,
    ModelMetadata,
    ServerMetadata,
    Live,
    Ready,
    ProtocolError,
)
_OTHER_FORMATS = {
    arrow.MEDIA_TYPE: {"schema": {"description": "An Arrow stream: a column each, and `id`.", "type": "string"}},
    streaming.MEDIA_TYPE.decode(): {
        "schema": {"description": "A row, an answer or an error a line.", "type": "string"}
    },
}
_REFERENCE = "#/components/schemas/{name}"


def document(card: Card, decoder: RowDecoder, asks_for_keys: bool) -> dict[str, Any]:
    """Describe the paths as OpenAPI 3.1."""
    _, schemas = msgspec.json.schema_components((decoder.request, _answer(decoder), *_KINDS), ref_template=_REFERENCE)
    paths = _own_paths(decoder) | _protocol_paths(card)
    components: dict[str, Any] = {"schemas": schemas}
    if asks_for_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in paths.items():
            for operation in methods.values():
                scope = wanted(path.replace(f"/v2/models/{card.model}", "/v2/models"))
                _secure(operation, scope, ProtocolError if path.startswith("/v2") else ErrorAnswer)
    about = {"title": card.model, "version": card.version}
    return {"openapi": "3.1.0", "info": about, "paths": paths, "components": components}


def _secure(operation: dict[str, Any], scope: str, error: type) -> None:
    """Say which key an operation wants."""
    if scope == ANYBODY:
        return
    operation["security"] = [{"key": [] if scope == ANY_KEY else [scope]}]
    for status in (401, 429) if scope == ANY_KEY else (401, 403, 429):
        operation["responses"][str(status)] = _content(error, _ERRORS[status])


def _own_paths(decoder: RowDecoder) -> dict[str, Any]:
    rows = {"rows": [example_row(decoder.contract)]}
    target = decoder.contract.target
    truth = target.minimum if isinstance(target, Number) else target.values[0]
    labels = {"labels": [{"id": "trip-1", "value": truth}]}
    predict = _operation("predict", "Predict rows.", _answer(decoder), _PREDICT) | {"parameters": [_DEADLINE]}
    predict["requestBody"] = _body(decoder.request, rows)
    for content in (predict["requestBody"]["content"], predict["responses"]["200"]["content"]):
        content |= _OTHER_FORMATS
    feedback = _operation("feedback", "Tell what was true.", FeedbackAnswer, _FEEDBACK) | {"parameters": [_DEADLINE]}
    return {
        "/v1/predict": {"post": predict},
        "/v1/feedback": {"post": feedback | {"requestBody": _body(FeedbackRequest, labels)}},
        "/v1/model": {"get": _operation("model", "What answers now.", ModelAnswer)},
        "/livez": {"get": _operation("livez", "Whether the process answers.", Liveness)},
        "/readyz": {"get": _readiness("readyz", "Whether requests are answered.", Readiness)},
        "/metrics": {"get": _text_operation("metrics", "Prometheus metrics.", "text/plain")},
        "/": {"get": _text_operation("page", "A page on which a person tries the model.", "text/html")},
    }


def _answer(decoder: RowDecoder) -> type:
    return PredictAnswer if isinstance(decoder.contract.target, Number) else ClassifyAnswer


def _protocol_paths(card: Card) -> dict[str, Any]:
    """Describe the Open Inference Protocol, for the one model that is served; its binary extension is not JSON."""
    model = f"/v2/models/{card.model}"
    infer = _operation("infer", "Predict rows, one tensor a column.", InferenceAnswer)
    infer["responses"] |= {str(status): _content(ProtocolError, _ERRORS[status]) for status in _PREDICT}
    return {
        "/v2": {"get": _operation("server", "What serves.", ServerMetadata)},
        "/v2/health/live": {"get": _operation("live", "Whether the process answers.", Live)},
        "/v2/health/ready": {"get": _readiness("ready", "Whether requests are answered.", Ready)},
        model: {"get": _operation("metadata", "What is asked and answered.", ModelMetadata)},
        f"{model}/ready": {"get": _readiness("model_ready", "Whether the model answers.", Ready)},
        f"{model}/infer": {
            "post": infer | {"requestBody": _body(InferenceRequest, example_request(card.contract))},
        },
    }


def _operation(name: str, summary: str, answer: type, errors: tuple[int, ...] = ()) -> dict[str, Any]:
    responses = {"200": _content(answer, "OK")}
    responses |= {str(status): _content(ErrorAnswer, _ERRORS[status]) for status in errors}
    return {"operationId": name, "summary": summary, "responses": responses}


def _readiness(name: str, summary: str, answer: type) -> dict[str, Any]:
    operation = _operation(name, summary, answer)
    operation["responses"]["503"] = _content(answer, "Predictions are refused; the body says why.")
    return operation


def _text_operation(name: str, summary: str, kind: str) -> dict[str, Any]:
    content = {kind: {"schema": {"type": "string"}}}
    return {"operationId": name, "summary": summary, "responses": {"200": {"description": "OK", "content": content}}}


def _body(kind: type, example: object) -> dict[str, Any]:
    content = {"schema": {"$ref": _REFERENCE.format(name=kind.__name__)}, "example": example}
    return {"required": True, "content": {"application/json": content}}


def _content(kind: type, description: str) -> dict[str, Any]:
    schema = {"$ref": _REFERENCE.format(name=kind.__name__)}
    return {"description": description, "content": {"application/json": {"schema": schema}}}

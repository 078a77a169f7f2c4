"""The Open Inference Protocol, version 2, over HTTP: its JSON, and its extension for binary tensors.

One tensor a column of the contract, shape [N] or [N, 1], of an image [N, height, width] or, of more than one channel,
[N, height, width, channels], and one named `id` where the caller names rows. Numbers are of any numeric type, NaN for
null; times are seconds since 1970 (of the wall clock that the column names) or text; integer categories have -2**63 for
null, text ones the empty string. Answers are `value` and `id`.

Source: the protocol and its binary extension as KServe documents them, https://kserve.github.io/website.
"""

import asyncio
import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType

from infra.errors import NotFound
from models.contract.columns import Category, Contract, Image, Input, Number, Time
from models.contract.rows import (
    ID,
    MAXIMUM_ROWS,
    NotJSON,
    RowDecoder,
    Rows,
    TooManyRows,
    broken_contract,
    example_row,
    from_array,
    violation_of,
)
from models.errors import ContractError, OkruhError, Violation
from services.champion import Champion
from services.following import Following, Serving
from services.messages import Answer, Request, Route, encode
from services.observing import note, step
from services.predictions import INLINE_BYTES, Answered, Predictions
from services.trial import drawn

VALUE, PROBABILITIES = "value", "probabilities"

_LENGTH = b"inference-header-content-length"
_TYPES = {
    "BOOL": "?",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_TEXT = "BYTES"


class Tensor(Struct):
    """One input."""

    name: str
    shape: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(extra_json_schema={"minItems": 1, "maxItems": 4})]
    datatype: Annotated[str, Meta(extra_json_schema={"enum": [*_TYPES, _TEXT]})]
    parameters: dict[str, Any] = {}
    data: Any = UNSET


class Output(Struct):
    """One output that is wanted."""

    name: Annotated[str, Meta(extra_json_schema={"enum": [VALUE, PROBABILITIES, ID]})]
    parameters: dict[str, Any] = {}


class InferenceRequest(Struct):
    """The JSON of a request."""

    inputs: Annotated[list[Tensor], Meta(min_length=1)]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[Output] = []


class OutputTensor(Struct, omit_defaults=True):
    """One output."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    """`binary_data_size` where the values are in the binary part."""
    data: Sequence[float | int | str] | UnsetType = UNSET


class InferenceAnswer(Struct, omit_defaults=True):
    """The JSON of an answer."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str = ""
    """The request's."""


class TensorKind(Struct):
    """What a tensor holds; -1 stands for the number of rows."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Struct):
    """What is asked and answered."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorKind]
    outputs: list[TensorKind]


class ServerMetadata(Struct):
    """What serves."""

    name: str
    version: str
    extensions: list[str]


class Live(Struct):
    """The process answers."""

    live: bool = True


class Ready(Struct):
    """Requests are answered."""

    ready: bool


class ProtocolError(Struct):
    """An error, as the protocol says it."""

    error: str


_decoder = msgspec.json.Decoder(InferenceRequest)


class OpenInference:
    """The protocol's paths, all below `/v2`."""

    def __init__(self, following: Following, predictions: Predictions) -> None:
        self._following = following
        self._predictions = predictions
        self._routes = {
            "/v2": Route("GET", self._server, "/v2", says=_say),
            "/v2/health/live": Route("GET", _live, "/v2/health/live", says=_say),
            "/v2/health/ready": Route("GET", self._ready, "/v2/health/ready", says=_say),
        }
        self._of_models = {
            (): Route("GET", self._model, "/v2/models", says=_say),
            ("ready",): Route("GET", self._model_ready, "/v2/models/ready", says=_say),
            ("infer",): Route("POST", self._infer, "/v2/models/infer", says=_say),
        }

    def find(self, path: str) -> Route | None:
        """Give what answers a path; None where it is none of the protocol's."""
        match path.split("/"):
            case ["", "v2", "models", _, "versions", _, *rest] | ["", "v2", "models", _, *rest]:
                return self._of_models.get(tuple(rest))
        return self._routes.get(path)

    def _served(self, request: Request) -> Serving:
        """Give who answers what a path names: a named version alone, the challenger's too. Raises: `NotFound`."""
        serving = self._following.serving
        model, version = serving.champion.card.model, serving.champion.card.version
        _, _, _, name, *rest = request.path.split("/")
        if rest[:1] != ["versions"] and name == model:
            return serving
        wanted = rest[1] if rest[:1] == ["versions"] else version
        found = [one for one in _ready_models(serving) if (name, wanted) == (model, one.card.version)]
        if not found:
            raise NotFound(f"{name} {wanted} is not served here: this is {model} {version}")
        return Serving(found[0])

    async def _model_ready(self, request: Request) -> Answer:
        self._served(request)
        return await self._ready(request)

    async def _ready(self, _: Request) -> Answer:
        ready = await self._predictions.ready()
        return Answer(200 if ready else 503, encode(Ready(ready)))

    async def _server(self, _: Request) -> Answer:
        version = self._following.champion.card.version
        return Answer(200, encode(ServerMetadata("okruh", version, ["binary_tensor_data"])))

    async def _model(self, request: Request) -> Answer:
        serving = self._served(request)
        card, versions = serving.champion.card, [one.card.version for one in _ready_models(serving)]
        inputs = [TensorKind(one.name, _datatype(one), [-1, *_row_shape(one)]) for one in card.contract.inputs]
        kinds = [*inputs, TensorKind(ID, _TEXT, [-1])], _outputs(card.contract)
        return Answer(200, encode(ModelMetadata(card.model, versions, "onnxruntime_onnx", *kinds)))

    async def _infer(self, request: Request) -> Answer:
        serving, size = self._served(request), len(request.body)
        champion, its = serving.champion, drawn(serving.challenger, request)
        read = partial(_read, request, champion.decoder)
        note(model=champion.card.model, version=champion.card.version)
        with step("decode"):
            asked, rows = read() if size <= INLINE_BYTES else await asyncio.to_thread(read)
        note(rows=rows.count)
        answered = await self._predictions.answer(champion, rows, size, its)
        with step("encode"):
            inline = size <= INLINE_BYTES
            return _answer(asked, answered) if inline else await asyncio.to_thread(_answer, asked, answered)


def _ready_models(serving: Serving) -> list[Champion]:
    """Give the champion, and the challenger where its trial goes on."""
    tried = serving.challenger
    return [serving.champion, *([] if tried is None or tried.tally.ended is not None else [tried.model])]


def _read(request: Request, decoder: RowDecoder) -> tuple[InferenceRequest, Rows]:
    asked, columns = decode(request, decoder.contract)
    rows = zip(*columns.values(), strict=True)
    return asked, decoder.convert([dict(zip(columns, row, strict=True)) for row in rows])


def decode(request: Request, contract: Contract) -> tuple[InferenceRequest, dict[str, list[Any]]]:
    """Read a request: what was asked, and the values of each column, all of one length; not compared with the contract.

    Raises: `NotJSON`, `TooManyRows`, `ContractError`.
    """
    declared = request.header(_LENGTH)
    if declared is not None and not (declared.isdigit() and len(declared) < 10 and int(declared) <= len(request.body)):
        raise ContractError("Inference-Header-Content-Length is no length within this body")
    end = len(request.body) if declared is None else int(declared)
    try:
        asked = _decoder.decode(memoryview(request.body)[:end])
    except msgspec.ValidationError as error:
        raise broken_contract([violation_of(error, "inputs")]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotJSON(f"the body is not JSON: {error}") from error
    names = [one.name for one in asked.inputs]
    if len(set(names)) < len(names):
        raise ContractError("an input is there twice")
    known = [one.name for one in _outputs(contract)]
    if unknown := [one.name for one in asked.outputs if one.name not in known]:
        raise ContractError(f"there is no output {unknown[0]!r}: ask for {' or '.join(known)}")
    named = {column.name: column for column in contract.inputs}
    columns, binary = dict[str, list[Any]](), request.body[end:]
    for tensor in asked.inputs:
        column = named.get(tensor.name)
        values, binary = _values(tensor, binary, _row_shape(column))
        columns[tensor.name] = from_array(column, values) if column else values
    if len({len(values) for values in columns.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise ContractError(f"inputs have different lengths: {lengths}")
    return asked, columns


def _values(tensor: Tensor, binary: bytes, row_shape: tuple[int, ...] = ()) -> tuple[list[Any], bytes]:
    """Give the values of a tensor, and what is left of the binary part."""
    rows, *rest = tensor.shape or [0]
    if not tensor.shape or rest not in ([list(row_shape)] if row_shape else [[], [1]]):
        wanted = f"[N, {', '.join(map(str, row_shape))}]" if row_shape else "[N] or [N, 1]"
        raise _broken(tensor, f"its shape is {wanted}, not {tensor.shape}")
    count = rows * math.prod(row_shape)
    if rows > MAXIMUM_ROWS:
        raise TooManyRows(f"a request carries at most {MAXIMUM_ROWS} rows, this one {rows}; send it in parts")
    if tensor.datatype not in _TYPES and tensor.datatype != _TEXT:
        raise _broken(tensor, f"there is no datatype {tensor.datatype!r}")
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        values = _flat(tensor.data, len(row_shape) or 1)
    elif not isinstance(size, int) or not 0 <= size <= len(binary):
        raise _broken(tensor, f"its binary_data_size is {size!r}, of which {len(binary)} bytes are there")
    elif tensor.datatype == _TEXT:
        values, binary = list(_texts(tensor, binary[:size])), binary[size:]
    else:
        kind = np.dtype(_TYPES[tensor.datatype])
        if size != count * kind.itemsize:
            raise _broken(tensor, f"{count} values of {tensor.datatype} have {count * kind.itemsize} bytes, not {size}")
        values, binary = np.frombuffer(binary[:size], kind).tolist(), binary[size:]
    if len(values) != count:
        raise _broken(tensor, f"its shape says {count} values, there are {len(values)}")
    for length in reversed(row_shape):
        values = [values[start : start + length] for start in range(0, len(values), length)]
    return values, binary


def _flat(data: Any, depth: int = 1) -> list[Any]:
    """Take lists out of lists, so often at most."""
    values: list[Any] = data if isinstance(data, list) else []
    for _ in range(depth):
        if values and all(isinstance(one, list) for one in values):
            values = list(chain.from_iterable(values))
    return values


def _texts(tensor: Tensor, content: bytes) -> Iterator[str]:
    start = 0
    while start < len(content):
        end = start + 4 + int.from_bytes(content[start : start + 4], "little")
        if end > len(content):
            raise _broken(tensor, "an element is longer than what is there")
        try:
            yield content[start + 4 : end].decode()
        except UnicodeDecodeError as error:
            raise _broken(tensor, "an element is no UTF-8") from error
        start = end


def _broken(tensor: Tensor, rule: str) -> ContractError:
    return broken_contract([Violation(tensor.name, rule)])


def _answer(asked: InferenceRequest, answered: Answered) -> Answer:
    every = asked.parameters.get("binary_data_output") is True
    card, rows = answered.model.card, len(answered)
    kinds = {one.name: one for one in _outputs(card.contract)}
    wanted = asked.outputs or [Output(name) for name in kinds]
    outputs, parts = [], list[bytes]()
    for one in wanted:
        kind, values = kinds[one.name], _values_of(one.name, answered)
        output = OutputTensor(one.name, kind.datatype, [rows, *kind.shape[1:]])
        if one.parameters.get("binary_data", every) is True:
            parts.append(_binary(kind.datatype, values))
            output.parameters = {"binary_data_size": len(parts[-1])}
        else:
            output.data = values
        outputs.append(output)
    head = encode(InferenceAnswer(card.model, card.version, outputs, asked.id))
    if not parts:
        return Answer(200, head)
    length = ((_LENGTH, str(len(head)).encode()),)
    return Answer(200, b"".join((head, *parts)), length, b"application/octet-stream")


def _values_of(output: str, answered: Answered) -> Sequence[Any]:
    """Give an output's values, those of several columns row by row."""
    if output == PROBABILITIES:
        return list(chain.from_iterable(answered.probabilities() or ()))
    return answered.values() if output == VALUE else answered.ids()


def _binary(datatype: str, values: Sequence[Any]) -> bytes:
    if datatype != _TEXT:
        return np.asarray(values, _TYPES[datatype]).tobytes()
    encoded = [text.encode() for text in values]
    return b"".join(part for text in encoded for part in (len(text).to_bytes(4, "little"), text))


def _row_shape(column: Input | None) -> tuple[int, ...]:
    """Give the shape of what a row has in a tensor, where it is no single value."""
    return column.lists if isinstance(column, Image) else ()


def _datatype(column: Input) -> str:
    if isinstance(column, Image):
        return "UINT8" if column.whole else "FP32"
    if isinstance(column, Number):
        return "FP32"
    return _TEXT if isinstance(column, Category) and column.is_text else "INT64"


def _outputs(contract: Contract) -> list[TensorKind]:
    """Say what is answered."""
    target, ids = contract.target, TensorKind(ID, _TEXT, [-1])
    value = TensorKind(VALUE, _datatype(target), [-1])
    if isinstance(target, Number):
        return [value, ids]
    return [value, TensorKind(PROBABILITIES, "FP32", [-1, len(target.values)]), ids]


def example_request(contract: Contract) -> dict[str, Any]:
    """Give a request of one row that the contract accepts, as JSON values."""
    row = example_row(contract)
    tensors = [
        {
            "name": column.name,
            "shape": [1, *_row_shape(column)],
            "datatype": "BYTES" if isinstance(column, Time) else _datatype(column),
            "data": [row[column.name]],
        }
        for column in contract.inputs
    ]
    return {"inputs": tensors}


async def _live(_: Request) -> Answer:
    return Answer(200, encode(Live()))


def _say(error: OkruhError) -> bytes:
    return encode(ProtocolError(str(error)))

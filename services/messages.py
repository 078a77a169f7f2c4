"""What travels over HTTP: answers, feedback and errors. The predict request is made from the champion's contract."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from models.contract.columns import Category, Input, Number
from models.contract.rows import MAXIMUM_ROWS, Id
from models.deciding.rollout import Mode
from models.errors import OkruhError
from models.inference import Placement


class Predicted(Struct, frozen=True):
    """One row's answer."""

    id: str
    """The caller's, or a new one; labels refer to it."""
    value: float


class Classified(Struct, frozen=True):
    """One row's answer, where the target is a category."""

    id: str
    """The caller's, or a new one; labels refer to it."""
    value: int | str
    """The most likely."""
    probabilities: list[float]
    """Of each value, in the order of the model's target."""


class PredictAnswer(Struct, frozen=True):
    """Predictions in the order of the request's rows."""

    model: str
    version: str
    predictions: list[Predicted]


class ClassifyAnswer(Struct, frozen=True):
    """The same, where the target is a category."""

    model: str
    version: str
    predictions: list[Classified]


class TrueValue(Struct, frozen=True, forbid_unknown_fields=True):
    """What turned out to be true for one prediction."""

    id: Id
    value: Annotated[
        float | int | str,
        Meta(description="In the unit of the model's target, or one of its values where those are named."),
    ]
    at: Annotated[datetime, Meta(tz=True, description="When it became known; left out: now.")] | UnsetType = UNSET


class FeedbackRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Labels of earlier predictions."""

    labels: Annotated[list[TrueValue], Meta(min_length=1, extra_json_schema={"maxItems": MAXIMUM_ROWS})]


class FeedbackAnswer(Struct, frozen=True):
    """All labels are kept."""

    kept: int


class BrokenRule(Struct, frozen=True):
    """One broken rule of the contract: where, and which."""

    field: str
    rule: str
    row: int | None = None


class Fault(Struct, frozen=True, omit_defaults=True):
    """What went wrong."""

    message: str
    violations: list[BrokenRule] = []
    unknown: list[str] = []
    """Ids that no prediction bears."""
    conflicting: list[str] = []
    """Ids that have another label already, which stays."""
    kept: int | None = None
    """Labels of this request that are kept."""


class ErrorAnswer(Struct, frozen=True):
    """The body of every answer that is not 2xx."""

    error: Fault


class Refusal(Struct, frozen=True):
    """A champion or challenger that the rollout names and that this service does not take over."""

    version: str
    reason: str


class Abort(Struct, frozen=True):
    """A challenger whose own answers have ended its trial in this worker."""

    version: str
    reason: str
    lake: str | None
    """Why the lake could not be told yet; null when it knows."""


class Trial(Struct, frozen=True):
    """A challenger that is ready beside the champion."""

    version: str
    mode: Mode
    since: datetime
    """Event time of the trial's beginning."""
    weight: float
    """Its share of the keys at this moment."""
    digest: str
    """sha256 of the ONNX graph."""


class ModelAnswer(Struct, frozen=True):
    """What answers now."""

    model: str
    version: str
    since: datetime | None
    """Event time of its promotion; null where no lake is followed."""
    digest: str
    """sha256 of the ONNX graph."""
    variant: str
    """Which of the version's graphs that is: `float32`, its own, or a smaller one."""
    signature: str
    inputs: tuple[Input, ...]
    target: Number | Category
    metrics: dict[str, float]
    runs_on: Placement
    following: bool
    """Whether promotions in the lake are taken over."""
    refused: Refusal | None
    challenger: Trial | None
    challenger_refused: Refusal | None
    challenger_aborted: Abort | None
    """The last trial, where it was ended by itself and none has begun since."""


class Readiness(Struct, frozen=True):
    """Whether requests are answered, and what is not as it should be."""

    ready: bool
    model: str
    version: str
    following: bool
    provider: str | None
    """Why the model does not run on the provider that is wanted, or best; null when it does."""
    lake: str | None
    """Why the lake's rollout cannot be read; null when it can."""
    journal: str | None
    """Why the last write failed; null when it did not."""
    refused: Refusal | None
    challenger: Trial | None
    challenger_refused: Refusal | None
    challenger_aborted: Abort | None
    keys: str | None
    """Why callers' keys cannot be read, or that there are none; null where they can, or are not asked for."""


class Liveness(Struct, frozen=True):
    """The process answers."""

    alive: bool = True


def media_type(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Give what a body is said to be, in small letters and without parameters."""
    for name, value in headers:
        if name == b"content-type":
            return value.partition(b";")[0].strip().lower()
    return b""


class Request(NamedTuple):
    """What came."""

    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()
    """Names in small letters."""
    path: str = ""

    @property
    def media_type(self) -> bytes:
        """What the body is said to be, in small letters."""
        return media_type(self.headers)

    def header(self, name: bytes) -> bytes | None:
        """Give the first header of a name."""
        for found, value in self.headers:  # half of the time of a generator, for each request
            if found == name:
                return value
        return None


class Answer(NamedTuple):
    """What goes back."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"application/json"


Handler = Callable[[Request], Awaitable[Answer]]

Stream = Callable[[Request, AsyncIterator[bytes]], AsyncGenerator[bytes]]
"""Takes a request and, beside it, its body as it comes; gives an answer as it is made; never raises what a caller can
cause."""


encode = msgspec.json.Encoder().encode


def fault_of(error: OkruhError) -> Fault:
    """Say what went wrong."""
    violations = [BrokenRule(one.field, one.rule, one.row) for one in getattr(error, "violations", ())]
    return Fault(str(error), violations, conflicting=getattr(error, "conflicting", []))


def say(error: OkruhError) -> bytes:
    """Say what went wrong, as the body of an answer."""
    return encode(ErrorAnswer(fault_of(error)))


class Route(NamedTuple):
    """What answers a path."""

    method: str
    handler: Handler
    name: str
    """What metrics call it."""
    streams: Mapping[bytes, Stream] = {}
    """What answers bodies of these types while they come."""
    says: Callable[[OkruhError], bytes] = say
    """How errors are said here."""

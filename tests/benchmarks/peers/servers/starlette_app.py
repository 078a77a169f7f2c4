"""Starlette, msgspec and ONNX Runtime, and nothing else: what serving must cost at least with a framework."""

from datetime import datetime

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from taxi import open_session, run


class Row(msgspec.Struct):
    pickup_at: datetime
    pickup_zone: int
    dropoff_zone: int
    trip_miles: float
    passengers: float | None


class Body(msgspec.Struct):
    rows: list[Row]


class Answer(msgspec.Struct):
    predictions: list[float]


session, decode, encode = open_session(), msgspec.json.Decoder(Body).decode, msgspec.json.Encoder().encode


async def predict(request: Request) -> Response:
    rows = decode(await request.body()).rows
    return Response(encode(Answer(run(session, rows))), media_type="application/json")


app = Starlette(routes=[Route("/v1/predict", predict, methods=["POST"])])

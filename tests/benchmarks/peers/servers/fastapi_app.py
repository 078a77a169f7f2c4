"""FastAPI and pydantic, as their tutorials show it."""

from datetime import datetime

from fastapi import FastAPI
from pydantic import BaseModel
from taxi import open_session, run


class Row(BaseModel):
    pickup_at: datetime
    pickup_zone: int
    dropoff_zone: int
    trip_miles: float
    passengers: float | None


class Body(BaseModel):
    rows: list[Row]


class Answer(BaseModel):
    predictions: list[float]


app, session = FastAPI(), open_session()


@app.post("/v1/predict")
async def predict(body: Body) -> Answer:
    return Answer(predictions=run(session, body.rows))

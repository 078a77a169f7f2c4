"""FastAPI and pydantic, as their tutorials show it."""

from body import Body
from fastapi import FastAPI
from pydantic import BaseModel
from taxi import open_session, run


class Answer(BaseModel):
    predictions: list[float]


app, session = FastAPI(), open_session()


@app.post("/v1/predict")
async def predict(body: Body) -> Answer:
    return Answer(predictions=run(session, body.rows))

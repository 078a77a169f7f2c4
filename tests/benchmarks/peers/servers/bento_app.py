"""A stock BentoML service, as its documentation shows it."""

from datetime import datetime

import bentoml
from pydantic import BaseModel
from taxi import open_session, run


class Row(BaseModel):
    pickup_at: datetime
    pickup_zone: int
    dropoff_zone: int
    trip_miles: float
    passengers: float | None


@bentoml.service(workers=1)
class Taxi:
    def __init__(self) -> None:
        self.session = open_session()

    @bentoml.api(route="/v1/predict")
    async def predict(self, rows: list[Row]) -> list[float]:
        return run(self.session, rows)

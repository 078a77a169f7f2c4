"""A request as pydantic reads it, for the servers that have it read by that."""

from datetime import datetime

from pydantic import BaseModel


class Row(BaseModel):
    pickup_at: datetime
    pickup_zone: int
    dropoff_zone: int
    trip_miles: float
    passengers: float | None


class Body(BaseModel):
    rows: list[Row]

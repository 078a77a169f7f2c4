"""A stock BentoML service, as its documentation shows it."""

import bentoml
from body import Row
from taxi import open_session, run


@bentoml.service(workers=1)
class Taxi:
    def __init__(self) -> None:
        self.session = open_session()

    @bentoml.api(route="/v1/predict")
    async def predict(self, rows: list[Row]) -> list[float]:
        return run(self.session, rows)

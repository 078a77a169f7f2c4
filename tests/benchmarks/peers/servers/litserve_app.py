"""LitServe, one worker."""

import os

import litserve
from body import Body, Row
from taxi import open_session, run


class Taxi(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.session = open_session()

    def decode_request(self, request: Body) -> list[Row]:
        return request.rows

    def predict(self, rows: list[Row]) -> list[float]:
        return run(self.session, rows)

    def encode_response(self, values: list[float]) -> dict[str, list[float]]:
        return {"predictions": values}


if __name__ == "__main__":
    server = litserve.LitServer(Taxi(api_path="/v1/predict"), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), num_api_servers=1, generate_client_file=False, log_level="error"
    )

"""MLServer: a custom runtime for its Open Inference Protocol (JSON), one worker."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from taxi import open_session

KINDS = {"pickup_at": np.int64, "pickup_zone": np.int64, "dropoff_zone": np.int64}


class Taxi(MLModel):
    async def load(self) -> bool:
        self.session = open_session()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        columns = {one.name: np.asarray(one.data, KINDS.get(one.name, np.float32)) for one in payload.inputs}
        (value,) = self.session.run(["value"], columns)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("value", value)])

"""What the servers beside Okruh's share: the fields of `taxi_eta`, and one ONNX Runtime session of its graph.

They run in environments of their own, which have no Okruh: the graph's path is in MODEL.
"""

import os
from datetime import datetime

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np
import onnxruntime

EPOCH = datetime(1970, 1, 1)


def open_session() -> onnxruntime.InferenceSession:
    """Open the graph as Okruh does: one thread, which sleeps when it has nothing to do."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, rows: list) -> list[float]:
    """Predict rows that have the fields as attributes."""
    times = [row.pickup_at - EPOCH for row in rows]
    columns = {
        "pickup_at": np.array([one.days * 86_400 + one.seconds for one in times], np.int64),
        "pickup_zone": np.array([row.pickup_zone for row in rows], np.int64),
        "dropoff_zone": np.array([row.dropoff_zone for row in rows], np.int64),
        "trip_miles": np.array([row.trip_miles for row in rows], np.float32),
        "passengers": np.array([row.passengers for row in rows], np.float32),
    }
    return session.run(["value"], columns)[0].tolist()

"""The service of `services.prediction` for an image with CUDA; `OKRUH_PROVIDER` is `cuda` where nothing else is set.

Building it needs no GPU. Where it serves, one that cannot be used is an error and no silent move to the CPU.
"""

import bentoml

from infra.bento_image import gpu_image
from services.prediction import OPTIONS, Served

Prediction = bentoml.service(
    image=gpu_image(), envs=[{"name": "OKRUH_PROVIDER", "value": "cuda"}], resources={"gpu": 1}, **OPTIONS
)(Served)

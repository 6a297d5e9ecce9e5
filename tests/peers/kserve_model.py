"""Models for mlserver, which imports this in its own venv: arithmetic, and what goes wrong."""

from __future__ import annotations

import numpy as np  # type: ignore[import-not-found, unused-ignore]  # of mlserver's venv
from mlserver import MLModel  # type: ignore[import-not-found, unused-ignore]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found, unused-ignore]
from mlserver.errors import InferenceError  # type: ignore[import-not-found, unused-ignore]
from mlserver.types import (  # type: ignore[import-not-found, unused-ignore]
    InferenceRequest,
    InferenceResponse,
)


class Doubling(MLModel):  # type: ignore[misc, unused-ignore]
    """Twice what it is given; it does not take what is negative."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = NumpyCodec.decode_input(payload.inputs[0])
        if np.any(given < 0):
            raise InferenceError("it does not take negative numbers")
        doubled = NumpyCodec.encode_output("doubled", given * 2)
        return InferenceResponse(
            model_name=self.name, model_version=self.version, outputs=[doubled]
        )

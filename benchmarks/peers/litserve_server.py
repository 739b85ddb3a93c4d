"""The model behind LitServe: a JPEG in, the vector's bytes out."""

# No `from __future__ import annotations`: LitServe reads the annotation of `request`, and with it
# the body is taken as it is. As a form or as JSON it would cost more.
from typing import Annotated, Any

import litserve
from fastapi import Body, Response

from benchmarks.peers.model import Model, n_processes, port


class Embed(litserve.LitAPI):  # type: ignore[misc]
    """One process."""

    def setup(self, device: str) -> None:
        del device
        self._model = Model()

    def decode_request(
        self, request: Annotated[bytes, Body(media_type="image/jpeg")], **_: Any
    ) -> bytes:
        return request

    def predict(self, x: bytes, **_: Any) -> bytes:
        return self._model.embed(x)

    def encode_response(self, output: bytes, **_: Any) -> Response:
        return Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    server = litserve.LitServer(Embed(), accelerator="cpu", workers_per_device=n_processes())
    server.run(host="127.0.0.1", port=port(), generate_client_file=False, log_level="warning")

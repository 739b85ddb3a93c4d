"""The model behind Mosec: a JPEG in, the vector's bytes out."""

from __future__ import annotations

from mosec import Server, Worker

from benchmarks.peers.model import Model, n_processes


class Embed(Worker):  # type: ignore[misc]
    """One process."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self._model = Model()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> bytes:
        return self._model.embed(data)

    def serialize(self, data: bytes) -> bytes:
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(Embed, num=n_processes())
    server.run()  # address and port come from its own variables, MOSEC_ADDRESS and MOSEC_PORT

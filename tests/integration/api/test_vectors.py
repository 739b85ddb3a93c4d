"""An image's vectors, as they are stored: as JSON, and as NumPy reads them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from celery.signals import after_task_publish
from support.plain_uploads import IDS, upload
from support.requests import assert_problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.inside_worker import WorkerProcess
    from support.requests import Client
    from support.stand_in import StandIn

LITE0 = "efficientnet-lite0@1-int8"
NPY = "application/x-npy"


@pytest.fixture(autouse=True)
def art(client: Client, process: WorkerProcess, worker: StandIn) -> Iterator[None]:
    """A library of two models; each call is done as soon as it is queued."""

    def run(sender: str, **_: Any) -> None:
        if sender.endswith("vectors"):
            process.run_next("search")

    worker.announce("search")
    client.put("/v1/libraries/art", json={"models": ["phash", LITE0]})
    upload(client, "art")
    process.run_all("bulk")
    after_task_publish.connect(run)
    yield
    after_task_publish.disconnect(run)


def ask(client: Client, accept: str | None = None, image_id: str = IDS[0], **query: str) -> Any:
    headers = {} if accept is None else {"Accept": accept}
    path = f"/v1/images/{image_id}/vectors"
    return client.get(path, query_string={"library": "art"} | query, headers=headers)


def stored(process: WorkerProcess) -> dict[str, Any]:
    library = process.runtime.catalog.library("art")
    return {
        collection.card.ref: process.runtime.vectors.fetch(collection, IDS[:1])[IDS[0]]
        for _, collection in process.runtime.targets.of(library)
    }


def test_each_model_tells_its_vector(client: Client, process: WorkerProcess) -> None:
    answer = ask(client)
    assert (answer.status_code, answer.vary.as_set()) == (200, {"accept"})
    told = {one["model"]: one for one in answer.json["items"]}
    kinds = {model: (one["metric"], one["dtype"]) for model, one in told.items()}
    assert kinds == {"phash@1": ("HAMMING", "uint8"), LITE0: ("L2", "float32")}
    for model, row in stored(process).items():
        np.testing.assert_array_equal(np.array(told[model]["values"], row.dtype), row)
    assert all(isinstance(value, int) for value in told["phash@1"]["values"])


@pytest.mark.parametrize("model", ["phash@1", LITE0, "phash"])
def test_one_is_a_file_of_numpy(client: Client, process: WorkerProcess, model: str) -> None:
    answer = ask(client, NPY, model=model)
    assert (answer.status_code, answer.content_type) == (200, NPY)
    read = np.load(io.BytesIO(answer.data), allow_pickle=False)
    [row] = [row for ref, row in stored(process).items() if ref.startswith(model)]
    assert (read.dtype, read.shape) == (row.dtype, row.shape)
    np.testing.assert_array_equal(read, row)
    assert (answer.data.index(b"\n") + 1) % 64 == 0


def test_of_one_model_json_has_one(client: Client) -> None:
    [one] = ask(client, "application/json;q=0.9, */*;q=0.8", model="phash").json["items"]
    assert one["model"] == "phash@1"


def test_what_cannot_be_told_is_refused(client: Client) -> None:
    problem = assert_problem(ask(client, NPY), 422, "validation-failed")
    assert [error["location"] for error in problem["errors"]] == ["query:model"]
    problem = assert_problem(ask(client, model="nonesuch"), 404, "model-not-found")
    assert [error["location"] for error in problem["errors"]] == ["query:model"]
    assert_problem(ask(client, image_id="0" * 64), 404, "image-not-found")
    assert_problem(ask(client, image_id=IDS[1], library="nonesuch"), 404, "library-not-found")


def test_a_vector_that_is_gone_is_left_out(client: Client, process: WorkerProcess) -> None:
    library = process.runtime.catalog.library("art")
    for _, collection in process.runtime.targets.of(library, ["phash@1"]):
        process.runtime.vectors.delete(collection, IDS[:1])
    assert [one["model"] for one in ask(client).json["items"]] == [LITE0]
    assert_problem(ask(client, NPY, model="phash"), 404, "content-missing")

"""A client that `openapi-python-client` makes of our document, with a whole service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support.photos import jpeg, source

from twinlens.shared.blobs import image_id_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from twinlens.cli.service.background import Running

LIBRARY = "generated"


@pytest.fixture(scope="module")
def document(service: Running) -> dict[str, Any]:
    answer = httpx.get(f"{service.url}/openapi.json").raise_for_status().json()
    assert isinstance(answer, dict)
    return answer


@pytest.fixture(scope="module")
def package(service: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of the generated code, which is then importable by its name."""
    folder = tmp_path_factory.mktemp("client") / "twinlens_generated"
    command = [sys.executable, "-P", "-m", "openapi_python_client", "generate", "--meta", "none"]
    command += ["--url", f"{service.url}/openapi.json", "--output-path", str(folder)]
    # It tidies the code with ruff.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    said = subprocess.check_output(
        command, stderr=subprocess.STDOUT, text=True, env=os.environ | {"PATH": path}
    )
    # It knows no other types of bodies than JSON, forms and octets.
    omitted = re.findall(r"^Unsupported content type (\S+)$", said, re.MULTILINE)
    assert "image/*" in omitted
    assert said.count("WARNING") == len(omitted), said
    assert "ERROR" not in said, said
    return folder


@pytest.fixture
def generated(package: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of the generated package."""
    monkeypatch.syspath_prepend(package.parent)
    return lambda name: import_module(f"{package.name}.{name}")


def test_every_operation_is_generated(package: Path, document: dict[str, Any]) -> None:
    names = {
        re.sub("(?=[A-Z])", "_", operation["operationId"]).lower()
        for methods in document["paths"].values()
        for operation in methods.values()
    }
    modules = {path.stem for path in package.glob("api/*/*.py")} - {"__init__"}
    assert modules == names


def test_pictures_are_sent_searched_and_read_back(
    service: Running, generated: Callable[[str], Any]
) -> None:
    models, types = generated("models"), generated("types")

    def ask(name: str, *args: Any, **options: Any) -> Any:
        return generated(f"api.{name}").sync(*args, client=client, **options)

    with generated("client").Client(service.url, timeout=90) as client:
        plan = models.LibraryPlan(models=["phash"])
        made = ask("models_and_libraries.put_library", LIBRARY, body=plan)
        assert isinstance(made, models.LibraryAnswer)

        picture = jpeg(source("coffee.png"), quality=80)
        form = models.AddImageFilesBody(
            file=types.File(picture, "cat.jpg", "image/jpeg"),
            metadata=models.AddImageFilesBodyMetadata.from_dict({"city": "Paris"}),
        )
        job = ask("images.add_image", body=form, library=LIBRARY, prefer="wait=60")
        assert isinstance(job, models.JobAnswer)
        assert job.status == "succeeded"
        assert isinstance(job.result, models.Image)
        image_id = image_id_of(picture)
        assert (job.result.id, job.result.metadata["city"]) == (image_id, "Paris")
        same = ask("jobs.get_job", job.id)
        assert (same.id, same.result.id) == (job.id, image_id)

        for name, expected in (("get_image_content", picture), ("get_image_thumbnail", None)):
            file = ask(f"images.{name}", image_id, library=LIBRARY)
            assert isinstance(file, types.File)
            content = file.payload.read()
            assert content == (expected or content)
            assert content.startswith(b"\xff\xd8")

        query = models.SearchQuery(library=LIBRARY, k=3, filter_='city == "Paris"')
        form = models.SearchFilesBody(file=[types.File(picture, "q.jpg")], query=query)
        ended = ask("search.search", body=form, prefer="wait=60")
        assert isinstance(ended.result, models.SearchResult)
        assert [hit.image.id for hit in ended.result.hits] == [image_id]

        refused = ask("search.search", body=models.SearchQuery(library=LIBRARY, text="words"))
        assert isinstance(refused, models.ProblemDetails)
        assert (refused.status, refused.type_) == (422, "urn:twinlens:problem:validation-failed")
        assert refused.errors[0].location == "/text"
        lost = ask("images.get_image_content", "0" * 64, library=LIBRARY)
        assert lost.type_ == "urn:twinlens:problem:image-not-found"

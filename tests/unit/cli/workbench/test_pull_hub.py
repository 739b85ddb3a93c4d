"""`twinlens models pull hf:…`: from a hub, with what a network does and a hub refuses."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import constants
from support import repositories
from support.disk import disk_with_room_for
from support.hub import REVISION, Hub, serving
from support.repositories import save, text_graph, vision_graph, write
from support.servers import free_port

from twinlens.cli.main import main
from twinlens.models.card import load_card
from twinlens.models.pull import hub as pull_hub
from twinlens.models.pull.address import RepositoryAddress
from twinlens.models.pull.known import KNOWN_MODELS
from twinlens.models.registry import Registry

NAMED = "hf:someone/Some-Pair"
FILES = {
    "config.json",
    "onnx/text_model.onnx",
    "onnx/vision_model.onnx",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a pair of towers, and with what nobody needs."""
    folder = repositories.clip(tmp_path / "repository")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    save(folder / "onnx/model.onnx", vision_graph(("image_embeds",)))
    # What is whole of these is kept of a download that breaks off; real ones have 10 MB.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 64)
    with serving(Hub(folder)) as hub:
        point_to(hub.url, tmp_path, monkeypatch)
        yield hub


def point_to(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Does what HF_ENDPOINT does to a process that begins."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def pull(*words: object, models: Path, cache: Path, answer: str | None = None) -> Result:
    given = ["models", "pull", *map(str, words), "--dir", str(models), "--cache", str(cache)]
    return CliRunner().invoke(main, given, input=answer)


def succeed(*words: object, models: Path, cache: Path) -> str:
    done = pull(*words, models=models, cache=cache)
    assert done.exit_code == 0, done.output
    return done.stderr


def fail(*words: object, models: Path, cache: Path) -> str:
    done = pull(*words, models=models, cache=cache)
    assert done.exit_code == 1, done.output
    return done.stderr.splitlines()[-1]


def test_what_is_needed_is_fetched_and_the_card_says_what(
    hub: Hub, models: Path, cache: Path
) -> None:
    said = succeed(NAMED, models=models, cache=cache)
    assert f"{NAMED} at {REVISION[:12]}: licence mit, 0.0 MB in 7 files" in said
    assert set(hub.fetched()) == FILES
    card = load_card(models / "some-pair@1.toml")
    assert card.pulled is not None
    assert (card.licence, card.source) == ("mit", NAMED)
    assert (card.pulled.repository, card.pulled.revision) == (NAMED, REVISION)
    assert card.pulled.files == {
        name: hashlib.sha256((hub.folder / name).read_bytes()).hexdigest() for name in FILES
    }
    assert Registry(models).open_text("some-pair").encode("a red photo").shape == (4,)
    # It is in the models folder now.
    assert not list((cache / "pulled").iterdir())


def test_the_same_model_comes_of_a_folder_with_a_copy(hub: Hub, models: Path, cache: Path) -> None:
    succeed(NAMED, models=models, cache=cache)
    succeed(hub.folder, "--name", "copy", models=models, cache=cache)
    pulled, copied = (load_card(models / f"{name}@1.toml") for name in ("some-pair", "copy"))
    assert pulled.sha256 == copied.sha256
    assert pulled.pulled is not None
    assert copied.pulled is not None
    assert pulled.pulled.files == copied.pulled.files


def test_a_revision_is_asked_for(hub: Hub, models: Path, cache: Path) -> None:
    succeed(f"{NAMED}@v2", models=models, cache=cache)
    assert ("GET", "/api/models/someone/Some-Pair/revision/v2") in [one[:2] for one in hub.asked]
    assert load_card(models / "some-pair@1.toml").pulled.revision == REVISION  # type: ignore[union-attr]
    gone = fail(f"{NAMED}@v3", "--name", "x", models=models, cache=cache)
    assert "someone/Some-Pair has no revision 'v3': give a branch, a tag or a commit" in gone


def test_weights_in_files_beside_are_fetched_with_their_graphs(
    hub: Hub, models: Path, cache: Path
) -> None:
    vision, text = hub.folder / "onnx/vision_model.onnx", hub.folder / "onnx/text_model.onnx"
    save(vision, vision_graph(("image_embeds",)), beside="vision_model.onnx_data")
    # No name tells of this one; the graph does.
    save(text, text_graph(("text_embeds",)), beside="words_data")
    succeed(NAMED, models=models, cache=cache)
    assert set(hub.fetched()) == FILES | {"onnx/vision_model.onnx_data", "onnx/words_data"}


def test_a_connection_that_breaks_off_is_gone_on_with(hub: Hub, models: Path, cache: Path) -> None:
    hub.breaks = [150]
    succeed(NAMED, models=models, cache=cache)
    assert next(one[2] for one in hub.asked if one[2]) == "bytes=128-"
    assert (models / "some-pair@1.toml").exists()


def test_a_command_that_is_run_again_goes_on_where_it_stopped(
    hub: Hub, models: Path, cache: Path
) -> None:
    # The first file breaks off, and then the hub is at an end.
    hub.breaks = [300, None]
    said = fail(NAMED, models=models, cache=cache)
    assert "answered 500 for someone/Some-Pair: run the command again; it goes on where" in said
    assert not (models / "some-pair@1.toml").exists()
    hub.asked.clear()
    succeed(NAMED, models=models, cache=cache)
    assert next(one[2] for one in hub.asked if one[2]) == "bytes=256-"


def test_a_file_with_another_hash_is_refused_and_not_kept(
    hub: Hub, models: Path, cache: Path
) -> None:
    for name in ("config.json", "onnx/text_model.onnx"):
        hub.spoilt = {name}
        said = fail(NAMED, models=models, cache=cache)
        assert f"{name} came with " in said
        assert "nothing of it is kept. Try again" in said
        assert not (models / "some-pair@1.toml").exists()
    hub.spoilt = set()
    succeed(NAMED, models=models, cache=cache)


def test_a_token_is_for_the_hub_and_not_for_where_files_lie(
    hub: Hub, models: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_mine"
    said = fail(NAMED, models=models, cache=cache)
    assert "there is no repository someone/Some-Pair at http://127.0.0.1" in said
    assert "or it is private: check the name, or set HF_TOKEN" in said
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    hub.asked.clear()
    succeed(NAMED, models=models, cache=cache)
    for _, path, _, given in hub.asked:
        assert given == (None if path.startswith("/lfs/") else "Bearer hf_mine")


def test_a_token_is_for_no_other_hub() -> None:
    assert pull_hub._token(RepositoryAddress("a/b", None, "https://mirror.example")) is False
    assert pull_hub._token(RepositoryAddress("a/b")) is None


def test_a_gated_repository_says_where_its_terms_are(hub: Hub, models: Path, cache: Path) -> None:
    hub.token, hub.gated = "hf_mine", True
    said = fail(NAMED, models=models, cache=cache)
    assert f"accept its terms at {hub.url}/someone/Some-Pair, and set HF_TOKEN" in said


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "does not let you read someone/Some-Pair (403): set HF_TOKEN"),
        (429, "is asked too often (429): run the command again in 7 s, or set HF_TOKEN"),
        (503, "answered 503 for someone/Some-Pair: run the command again"),
    ],
)
def test_what_the_hub_refuses_is_said(
    status: int, words: str, hub: Hub, models: Path, cache: Path
) -> None:
    hub.status = status
    assert words in fail(NAMED, models=models, cache=cache)


def test_a_repository_that_is_not_there_is_said(hub: Hub, models: Path, cache: Path) -> None:
    said = fail("hf:someone/else", models=models, cache=cache)
    assert "there is no repository someone/else at http://127.0.0.1" in said


@pytest.mark.parametrize(
    ("card", "gated", "licence"),
    [
        ({"license": "other", "license_name": "apple-amlr"}, False, "apple-amlr"),
        ({"license": "cc-by-nc-4.0"}, False, "cc-by-nc-4.0"),
        ({}, False, "unknown"),
        ({"license": "mit"}, True, "mit"),
    ],
)
def test_licences_that_want_consent_are_asked_about(
    card: dict[str, str], gated: bool, licence: str, hub: Hub, models: Path, cache: Path
) -> None:
    hub.card, hub.gated = card, gated
    for answer in ("n\n", ""):
        asked = pull(NAMED, models=models, cache=cache, answer=answer)
        assert asked.exit_code == 1
        assert f"The licence ({licence}) may not allow what you do with it" in asked.stderr
        assert f"read it at {hub.url}/someone/Some-Pair" in asked.stderr
    assert hub.fetched() == []
    assert pull(NAMED, models=models, cache=cache, answer="y\n").exit_code == 0
    said = succeed(NAMED, "--accept-licence", "--name", "b", models=models, cache=cache)
    assert "may not allow" not in said
    assert load_card(models / "b@1.toml").licence == licence


def test_a_model_that_is_known_by_its_name_is_fetched_under_it(
    hub: Hub, models: Path, cache: Path
) -> None:
    known = KNOWN_MODELS["clip-vit-b32"]
    # As the real one does, this copy states no licence; its authors do.
    hub.repository, hub.card = known.repository, {}
    succeed("clip-vit-b32", models=models, cache=cache)
    card = load_card(models / "clip-vit-b32@1.toml")
    assert (card.title, card.licence) == (known.title, "mit")
    assert card.source == "hf:Xenova/clip-vit-base-patch32"


def test_what_a_repository_says_of_its_licence_counts_before_its_authors(
    hub: Hub, models: Path, cache: Path
) -> None:
    hub.repository, hub.card = KNOWN_MODELS["dinov2-base"].repository, {"license": "cc-by-nc-4.0"}
    asked = pull("dinov2-base", models=models, cache=cache, answer="n\n")
    assert "The licence (cc-by-nc-4.0) may not allow" in asked.stderr
    hub.card = {"license": "other"}
    assert "licence apache-2.0" in succeed("dinov2-base", models=models, cache=cache)


def test_apples_licence_is_asked_about(hub: Hub, models: Path, cache: Path) -> None:
    hub.repository, hub.card = KNOWN_MODELS["mobileclip-s0"].repository, {}
    asked = pull("mobileclip-s0", models=models, cache=cache, answer="n\n")
    assert asked.exit_code == 1
    assert "The licence (apple-amlr) may not allow" in asked.stderr


def test_a_graph_that_is_too_large_is_not_fetched(hub: Hub, models: Path, cache: Path) -> None:
    hub.stated = {"onnx/vision_model.onnx_data": 3_000_000_000}
    said = fail(NAMED, models=models, cache=cache)
    assert "onnx/vision_model.onnx has 3.0 GB with its weights" in said
    assert hub.fetched() == []


def test_of_a_processor_that_is_not_known_no_graph_is_fetched(
    hub: Hub, models: Path, cache: Path
) -> None:
    write(hub.folder / "preprocessor_config.json", {"image_processor_type": "OwnProcessor"})
    assert "known are CLIPImageProcessor" in fail(NAMED, models=models, cache=cache)
    assert set(hub.fetched()) == FILES - {"onnx/vision_model.onnx", "onnx/text_model.onnx"}


def test_names_that_lead_out_of_the_folder_are_not_taken(
    hub: Hub, models: Path, cache: Path
) -> None:
    hub.stated = {"onnx/vision_model.onnx_data/../../../../out": 1}
    succeed(NAMED, models=models, cache=cache)
    assert set(hub.fetched()) == FILES


def test_a_disk_without_room_is_said_before(hub: Hub, models: Path, cache: Path) -> None:
    hub.stated = {"README.md": 10**17}
    said = fail(NAMED, models=models, cache=cache)
    assert "the model takes 100,000,000,000.0 MB, and " in said
    assert hub.fetched() == []


def test_a_disk_that_is_full_half_way_is_said_and_gone_on_with(
    hub: Hub, models: Path, cache: Path
) -> None:
    with disk_with_room_for(400):
        said = fail(NAMED, models=models, cache=cache)
    assert f"cannot take more ({os.strerror(errno.EFBIG)}): make room, or name another" in said
    hub.asked.clear()
    succeed(NAMED, models=models, cache=cache)
    assert next(one[2] for one in hub.asked if one[2]) == "bytes=400-"


def test_a_folder_that_cannot_be_written_to_is_said(hub: Hub, models: Path, cache: Path) -> None:
    cache.mkdir()
    (cache / "pulled").write_bytes(b"a file")
    said = fail(NAMED, models=models, cache=cache)
    assert "cannot be written to (Not a directory): name another folder with --cache" in said


def test_without_a_network_it_is_said_what_to_do(
    models: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to(f"http://127.0.0.1:{free_port()}", tmp_path, monkeypatch)
    said = fail(NAMED, models=models, cache=cache)
    assert "cannot be reached (ConnectError: " in said
    assert "check the network, HTTPS_PROXY and HF_ENDPOINT" in said
    assert "pass a folder with a copy of the repository" in said


def run_process(*words: object, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "twinlens.cli.main", "models", "pull", *map(str, words)]
    whole = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", **env}
    return subprocess.run(command, env=whole, capture_output=True, text=True, check=False)


def test_the_librarys_own_variables_are_honoured(
    hub: Hub, models: Path, cache: Path, tmp_path: Path
) -> None:
    where = ("--dir", models, "--cache", cache)
    home = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url}
    done = run_process(NAMED, *where, env=home)
    assert done.returncode == 0, done.stderr
    offline = home | {"HF_HUB_OFFLINE": "1"}
    gone = run_process(NAMED, *where, "--name", "b", env=offline)
    assert gone.returncode == 1
    assert "is not in the cache of huggingface_hub (" in gone.stderr
    assert "unset it, fetch it there with `hf download`, or pass a folder" in gone.stderr
    # What that command leaves.
    fetch = [str(Path(sys.executable).parent / "hf"), "download", "someone/Some-Pair"]
    subprocess.run(
        [*fetch, "--exclude", "*.bin"],
        env={**os.environ, **home},
        capture_output=True,
        check=True,
        timeout=100,
    )
    hub.asked.clear()
    done = run_process(NAMED, *where, "--name", "b", "--accept-licence", env=offline)
    assert done.returncode == 0, done.stderr
    assert hub.asked == []
    ours, theirs = (load_card(models / f"{name}@1.toml").pulled for name in ("some-pair", "b"))
    assert ours == theirs


def test_a_proxy_that_does_not_answer_is_said(hub: Hub, models: Path, cache: Path) -> None:
    proxy = f"http://127.0.0.1:{free_port()}"
    env = {"HF_ENDPOINT": "http://hub.example", "HTTP_PROXY": proxy, "NO_PROXY": ""}
    done = run_process(NAMED, "--dir", models, "--cache", cache, env=env)
    assert done.returncode == 1
    assert "http://hub.example cannot be reached (" in done.stderr
    assert "check the network, HTTPS_PROXY and HF_ENDPOINT" in done.stderr
    assert "Traceback" not in done.stderr

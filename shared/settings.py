"""Every setting, in one table. The only place that reads the environment."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated

from platformdirs import user_data_path
from pydantic import Field, IPvAnyNetwork, StringConstraints, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from twinlens.shared.origins import Origin, allowed_origin

MIB = 1024 * 1024
# How long Redis may be silent where a caller waits; an fsync of its append-only file holds it up
# for 2 s at most.
CALLER_TIMEOUT_S = 3.0

# As browsers send it: without a path, nor a port where it is the usual one.
_PageOrigin = Annotated[
    str,
    StringConstraints(
        to_lower=True, pattern=r"(?i)^https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]+)?$"
    ),
]


class Settings(BaseSettings):
    """What can be set, by `TWINLENS_<NAME>` in the environment. Read-only once made."""

    # What was given is not repeated in errors: it may be a secret.
    model_config = SettingsConfigDict(
        env_prefix="TWINLENS_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Redis or Valkey")
    milvus_uri: str = Field("http://127.0.0.1:19530", description="Milvus or Milvus Lite server")
    milvus_token: str = Field("", description="Milvus token, `user:password`", repr=False)
    milvus_timeout_s: float = Field(10.0, gt=0, description="Time limit for one call to Milvus")
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("twinlens"),
        description="Pictures, manifests and models; workers and API share it",
    )
    host: str = Field("127.0.0.1", description="Address of the HTTP service")
    port: int = Field(8000, ge=0, le=65535, description="Port of the HTTP service")
    public_hosts: list[str] = Field(
        [],
        description="Names under which browsers reach the service, besides localhost (JSON list)",
    )
    cors_origins: list[_PageOrigin] = Field(
        [],
        description="Origins whose pages may ask, such as `https://photos.example` (JSON list)",
    )
    max_picture_bytes: int = Field(64 * MIB, gt=0, description="Largest picture file")
    max_picture_px: int = Field(80_000_000, gt=0, description="Most pixels in a picture")
    max_body_bytes: int = Field(16 * 1024 * MIB, gt=0, description="Largest request body")
    max_job_items: int = Field(1_000_000, gt=0, description="Most pictures in one bulk job")
    max_queued_tasks: int = Field(
        50_000, gt=0, description="Most searches, or single uploads, that may wait; past it, 503"
    )
    max_sent_bytes: int = Field(
        512 * MIB,
        gt=0,
        description="Most bytes of pictures of waiting searches and comparisons in Redis; past"
        " it, 503",
    )
    max_backlog: int = Field(
        5_000_000, gt=0, description="Most pictures of bulk jobs that may wait; past it, 503"
    )
    disk_reserve_bytes: int = Field(
        512 * MIB, ge=0, description="Free space to leave in the data directory; below it, 507"
    )
    requests_per_minute: int = Field(
        0,
        ge=0,
        description="Most requests of one caller, by its key or else its address, a minute; past"
        " it, 429; 0: no limit",
    )
    allowed_roots: list[Path] = Field(
        [], description="Directories whose files a listing may name (JSON list)"
    )
    allowed_hosts: list[str] = Field(
        [], description="Hosts whose https: pictures a listing may name (JSON list)"
    )
    allowed_networks: list[IPvAnyNetwork] = Field(
        [], description="Private networks that an allowed host may be in (JSON list)"
    )
    webhook_hosts: list[str] = Field(
        [],
        description="Hosts that may be told of the end of jobs, by https: unless it says"
        " `http://host:port` (JSON list)",
    )
    webhook_secret: str = Field(
        "",
        description="What webhooks are signed with, `whsec_` and base64 of 24 to 64 bytes; several,"
        " with spaces between, while they are changed",
        repr=False,
    )
    fetch_timeout_s: float = Field(
        30.0, gt=0, description="Time limit for fetching one listed picture"
    )
    chunk_items: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Pictures in one task; else 16 to 64, by measured cost, or 256 where none is"
        " decoded",
    )
    # 32 pictures of 48 MP took 25 s on one core; VGG16 takes a second a picture.
    chunk_time_limit_s: int = Field(
        300, ge=1, description="How long a task may run before it is stopped and started again"
    )
    decode_time_limit_s: int = Field(
        30, ge=1, description="How long a picture may be decoded before its process is ended"
    )
    embed_time_limit_s: int = Field(
        30, ge=1, description="How long a picture may be in a model before its process is ended"
    )
    job_ttl_s: int = Field(7 * 86_400, gt=0, description="How long an ended job is kept")
    rollback_s: int = Field(
        3_600, ge=0, description="How long a library can go back to the edition before"
    )
    search_candidates: int = Field(100, ge=1, description="Fewest candidates to ask each model for")
    cache_bytes: int = Field(
        64 * MIB,
        ge=MIB,  # more than any embedding has
        description="Memory of each worker process for embeddings that it has read",
    )
    verify_time_limit_ms: int = Field(
        200, ge=0, description="How long a search may verify which candidates are copies"
    )
    batch_size: int | None = Field(
        None, ge=1, le=256, description="Pictures in one onnxruntime call; else 1, on a GPU 32"
    )
    execution_providers: list[str] = Field(
        ["CPUExecutionProvider"], description="onnxruntime providers, best first (JSON list)"
    )
    visibility_timeout_s: int = Field(
        15, ge=3, description="Silence after which a lost worker's task is queued again"
    )
    worker_grace_s: int = Field(
        15,
        ge=1,
        description="How long a worker that must stop may go on before it hands its tasks back",
    )
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, entries: list[str]) -> list[str]:
        for entry in entries:
            allowed_origin(entry)
        return entries

    @field_validator("webhook_hosts")
    @classmethod
    def _check_webhook_hosts(cls, entries: list[str]) -> list[str]:
        for entry in entries:
            allowed_origin(entry, may_be_plain=True)
        return entries

    @field_validator("webhook_secret")
    @classmethod
    def _check_secret(cls, secrets: str) -> str:
        for secret in secrets.split():
            try:
                key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
            except ValueError:
                key = b""
            if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
                raise ValueError("A secret is `whsec_` and the base64 of 24 to 64 random bytes.")
        return secrets

    @property
    def webhook_origins(self) -> frozenset[Origin]:
        return frozenset(allowed_origin(one, may_be_plain=True) for one in self.webhook_hosts)

    @property
    def blob_dir(self) -> Path:
        return self.data_dir / "blobs"

    @property
    def models_dir(self) -> Path:
        return self.data_dir / "models"

    @property
    def keys_dir(self) -> Path:
        return self.data_dir / "keys"

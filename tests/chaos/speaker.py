"""How a client of a round speaks to the service, and notes what it is promised."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chaos.good_client import GoodClient
from chaos.pictures import id_of, picture

if TYPE_CHECKING:
    from pathlib import Path

    import httpx
    from chaos.ledger import Ledger
    from chaos.plan import Step


@dataclass
class Speaker:
    """One client.

    Attributes:
        client: Its way to the service.
        library: Whose pictures it changes.
        seed: Of the round.
        is_owner: Whether nobody else changes its pictures.
        listed: Where it puts what its listings name.
        ledger: What was promised.
        key: Idempotency key of the step that it is at.
    """

    client: GoodClient
    library: str
    seed: int
    is_owner: bool
    listed: Path
    ledger: Ledger
    key: str = field(default="")

    def files(self, step: Step) -> dict[str, bytes]:
        return {f"{number}.png": picture(self.seed, number) for number in step.pictures}

    def path_of(self, number: int) -> str:
        return f"/v1/images/{id_of(self.seed, number)}"

    def ask(
        self, method: str, path: str, expected: set[int], **request: Any
    ) -> tuple[httpx.Response, bool]:
        """Asks as `GoodClient.ask`, of this client's library where no other is named."""
        if path.startswith("/v1/images") and "library=" not in path:
            request["params"] = {"library": self.library, **request.get("params", {})}
        return self.client.ask(method, path, expected, **request)

    def post(self, path: str, **request: Any) -> dict[str, Any]:
        """Posts what makes a job, and notes that it was accepted."""
        headers = {"Idempotency-Key": self.key + path, **request.pop("headers", {})}
        answer, _ = self.ask("POST", path, {200, 202}, headers=headers, **request)
        job: dict[str, Any] = answer.json()
        self.ledger.jobs[job["id"]] = path
        return job

    def ended(self, job_id: str, status: str = "succeeded") -> list[dict[str, Any]]:
        """Waits for a job that must end in this way, and returns its items."""
        self.ledger.jobs[job_id] = status
        job = self.client.ended(job_id)
        items = self.client.items(job_id)
        assert job["status"] == status or self.may_fail_as(code_of(job)), (job, items)
        return items

    def may_fail_as(self, code: str) -> bool:
        """Tells if it is no fault that a picture was not embedded."""
        # One whose worker was killed again and again passes for one that kills it. And of a
        # picture that another client removes, the bytes may be gone before it is embedded.
        return code == "crashed" or (code == "content-missing" and not self.is_owner)


def code_of(failed: dict[str, Any]) -> str:
    """Returns the code of what is wrong with a job or an item; nothing, if nothing is."""
    return failed["error"]["type"].rpartition(":")[2] if failed["error"] else ""

"""Every key in Redis, once. How long each lives: `tests/integration/shared/test_key_lives.py`."""

from __future__ import annotations

# Jobs by the time of their creation. Searches have a list of their own: they come by the thousand,
# and are kept for an hour.
JOBS = "tl:jobs"
SEARCHES = "tl:jobs:search"
# What the sweeper looks through: uploads that are still being read; and jobs of one task that has
# not ended, as `queue:job`, by the time of their creation.
ARRIVING = "tl:jobs:arriving"
TASKS = "tl:jobs:tasks"
# Jobs that are to end at a time, by that time; those that have ended as well, until it has passed.
DEADLINES = "tl:jobs:deadlines"
# Jobs that have manifests, by when to look whether their life is over.
MANIFESTS = "tl:jobs:manifests"

# Bulk jobs wait in two rings, so that libraries take turns, and the jobs of a library: a list of
# library ids, and one list of jobs for each (`jobs_in_turn`).
RING = "tl:feed:libraries"
# Chunks that are queued or running, with the Unix time since when. Only a few at a time.
FED = "tl:feed:fed"
# Pictures of bulk jobs that are stored and not yet counted.
BACKLOG = "tl:feed:backlog"

# How many deliveries of webhooks came to which end. Those that are owed are in a line for each host
# (`webhook_line`), by the time when each is due.
WEBHOOKS = "tl:webhooks"

# How often work was brought back after it was lost, by kind of job.
RESCUES = "tl:rescues"

# Live worker processes, and which of them sweeps.
WORKERS = "tl:workers"
SWEEP = "tl:sweep"

# Bytes of the pictures that were sent with queries, by task, and when they are gone.
SENT = "tl:sent"
SENT_UNTIL = "tl:sent:until"

LIBRARIES = "tl:libraries"
MODELS = "tl:models"
# Which Milvus is connected, and what it has.
SERVER = "tl:milvus"
# Seconds that a picture of a library took lately, by library id.
COSTS = "tl:costs"
# What Milvus has lost, by library id: only of those that have lost something.
DAMAGES = "tl:damages"
# Milvus collections that no library has any more, to be dropped.
UNUSED_COLLECTIONS = "tl:collections:unused"
# Ids of libraries that were removed lately, with the Unix time since when. What was still written
# of them since is removed as well.
REMOVED_LIBRARIES = "tl:libraries:removed"

# Where kombu keeps the messages that workers hold: its Redis channel's `unacked_key`.
UNACKED = "unacked"


def job(job_id: str) -> str:
    """Returns the key of a job's record."""
    return f"tl:job:{job_id}"


def events(job_id: str) -> str:
    """Returns the key of the stream on which each change of a job is announced."""
    return f"tl:job:{job_id}:events"


def done_chunks(job_id: str) -> str:
    """Returns the key of a bit for each chunk: whether it is counted."""
    return f"tl:job:{job_id}:done"


def arrival(job_id: str) -> str:
    """Returns the key that lives while an upload is being read."""
    return f"tl:job:{job_id}:arrival"


def tries(job_id: str) -> str:
    """Returns the key of how often each part of a job was begun and not ended."""
    return f"tl:job:{job_id}:tries"


def webhook_line(origin: str) -> str:
    """Returns the key of the jobs that have ended, and whose webhooks a host is to be told."""
    return f"{WEBHOOKS}:{origin}"


def jobs_in_turn(library_id: str) -> str:
    """Returns the key of a library's jobs that have chunks to be queued."""
    return f"{RING}:{library_id}"


def open_uploads(library_id: str) -> str:
    """Returns the key of a library's uploads that have not ended, by the time of their creation."""
    return f"tl:library:{library_id}:uploads"


def images(library_id: str) -> str:
    """Returns the key of a library's images, by id."""
    return f"tl:library:{library_id}:images"


def image_order(library_id: str) -> str:
    """Returns the key of the ids of a library's images, by the time when each was added."""
    return f"tl:library:{library_id}:order"


def removed_images(library_id: str) -> str:
    """Returns the key of the ids of images that were removed lately, by the time of it."""
    return f"tl:library:{library_id}:removed"


def closed_images(library_id: str) -> str:
    """Returns the key of the ids of images that nobody may add, by the time until when."""
    return f"tl:library:{library_id}:closed"


def calibrations(library_id: str) -> str:
    """Returns the key of a library's calibrations, by collection."""
    return f"tl:library:{library_id}:calibrations"


def query_picture(job_id: str, number: int = 0) -> str:
    """Returns the key of a picture that was sent with a query."""
    return f"tl:query:{job_id}:{number}"


def reply(task_id: str) -> str:
    """Returns the key of the list onto which a call's answer is pushed once."""
    return f"tl:reply:{task_id}"


def idempotency(key: str) -> str:
    """Returns the key of what a caller's idempotency key stands for."""
    return f"tl:idempotency:{key}"


def result(task_id: str) -> str:
    """Returns where Celery's Redis backend keeps a result; `task_keyprefix` in its source."""
    return f"celery-task-meta-{task_id}"

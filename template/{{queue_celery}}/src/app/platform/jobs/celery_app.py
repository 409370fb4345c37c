"""The Celery application. Use it directly for your own chords or groups."""

from functools import cache, partial
from typing import TYPE_CHECKING

from app.platform import about
from app.platform.data.credentials import redis_login
from app.platform.jobs.names import QUEUE

if TYPE_CHECKING:
    from celery import Celery


@cache
def celery_app(redis_url: str, timeout: float) -> "Celery":
    """The Celery application of this process. ``timeout``: seconds per Redis command."""
    from celery import Celery  # noqa: PLC0415 (0.2 s at every start)
    from celery.app.amqp import AMQP  # noqa: PLC0415 (likewise)
    from kombu.utils.collections import HashedSeq  # noqa: PLC0415 (likewise)

    url, credentials = redis_login(redis_url)

    class LoginConnection(AMQP.Connection):  # type: ignore[misc]
        def __eqhash__(self) -> HashedSeq:  # what kombu keys its pools by, without the login
            return HashedSeq(super().__eqhash__(), self.credential_provider)  # type: ignore[no-untyped-call]

    class Messaging(AMQP):  # type: ignore[misc]
        Connection = staticmethod(partial(LoginConnection, credential_provider=credentials))

    celery = Celery(about.NAME, amqp=Messaging, set_as_current=False)
    celery.conf.update(
        broker_url=url.replace("unix://", "redis+socket://", 1),
        broker_transport_options={
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "max_retries": 0,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Keep workers running while Redis is full or a replica.
        broker_channel_error_retry=True,
        include=["app.platform.jobs.celery_worker"],
        task_default_queue=QUEUE,
        task_ignore_result=True,
        # Before jobs are claimed: those that are committed later send a message of their own.
        task_acks_late=False,
        # While all children are busy, messages are for other workers.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # Seconds for a child to start; Celery would kill and replace it after four.
        worker_proc_alive_timeout=60,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return celery

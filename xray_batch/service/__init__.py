"""The service: watch the inbox until told to stop."""

from xray_batch.service.host import notify, only_service
from xray_batch.service.loop import Service

__all__ = ["Service", "notify", "only_service"]

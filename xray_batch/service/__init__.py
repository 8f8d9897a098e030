"""The service: watch the inbox until told to stop."""

from xray_batch.service.health import HealthServer, Vitals
from xray_batch.service.host import only_service
from xray_batch.service.loop import Service

__all__ = ["HealthServer", "Service", "Vitals", "only_service"]

"""What the running service says of itself: its own `/metrics`, read where Prometheus reads it."""

import http.client
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from xray_batch.intake import Folders
from xray_batch.settings import host_and_port

#: A service on this machine answers at once, or something is wrong with it.
_SECONDS: Final = 2.0

#: The whole exposition is a few kilobytes.
_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One value of a metric."""

    labels: str  #: such as `outcome normal`; empty where there is only one
    value: float  #: of a histogram how many were observed
    mean: float | None = None  #: of what a histogram observed; None elsewhere, and where it is empty


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveMetric:
    """One metric of the service."""

    name: str
    help: str
    kind: str  #: `counter`, `gauge` or `histogram`
    figures: tuple[Figure, ...]

    @property
    def telling(self) -> tuple[Figure, ...]:
        """The figures that are not 0; all where there is only one."""
        return self.figures if len(self.figures) == 1 else tuple(figure for figure in self.figures if figure.value)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over the socket in a home folder, however long its path."""

    def __init__(self, folders: Folders) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._socket = folders.health_socket

    def connect(self) -> None:
        folder = os.open(self._socket.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(_SECONDS)
            self.sock.connect(f"/proc/self/fd/{folder}/{self._socket.name}")
        finally:
            os.close(folder)


def read_metrics(address: str, folders: Folders) -> Sequence[LiveMetric] | None:
    """Ask the service for its metrics; None where nobody answers, or not with metrics.

    Parameters
    ----------
    address
        The setting `health_address`.
    """
    if address == "off":
        return None
    if address == "unix":
        connection: http.client.HTTPConnection = _UnixConnection(folders)
    else:
        connection = http.client.HTTPConnection(*host_and_port(address), timeout=_SECONDS)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            return None
        text = answer.read(_BYTES).decode()
        return tuple(map(_read_metric, text_string_to_metric_families(text)))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def value_of(metrics: Sequence[LiveMetric] | None, name: str) -> float | None:
    """Return the value of a metric that has only one; None where it is not told."""
    found = [metric.figures for metric in metrics or () if metric.name == name]
    return found[0][0].value if found and len(found[0]) == 1 else None


def _read_metric(family: Metric) -> LiveMetric:
    is_counter, is_histogram = family.type == "counter", family.type == "histogram"
    sums = {_key(sample): sample.value for sample in family.samples if sample.name.endswith("_sum")}
    figures = []
    for sample in family.samples:
        if is_histogram and not sample.name.endswith("_count"):
            continue
        total = sums.get(_key(sample)) if is_histogram else None
        figures.append(
            Figure(
                labels=", ".join(f"{name} {value}" for name, value in sample.labels.items()),
                value=sample.value,
                mean=total / sample.value if total is not None and sample.value else None,
            )
        )
    name = f"{family.name}_total" if is_counter else family.name
    return LiveMetric(name=name, help=family.documentation, kind=family.type, figures=tuple(figures))


def _key(sample: Sample) -> frozenset[tuple[str, str]]:
    return frozenset(sample.labels.items())

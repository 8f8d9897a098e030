"""`xray-batch watch`."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from xray_batch.cli.options import (
    BundleName,
    Config,
    DatabaseUrl,
    Decode,
    Device,
    Home,
    UnpackZip,
    open_settings,
    open_store,
)
from xray_batch.errors import DatabaseUnavailableError
from xray_batch.settings import Settings

if TYPE_CHECKING:
    from xray_batch.service import Vitals
    from xray_batch.store import Store

#: Between two tries to reach a database that is down when the service starts.
_RETRY_SECONDS = 5.0


def watch(
    bundle: BundleName = None,
    device: Device = None,
    decode: Decode = None,
    unpack_zip: UnpackZip = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Watch the inbox and classify what arrives, until stopped by SIGTERM or Ctrl-C."""
    settings = open_settings(
        home, config, database_url, bundle=bundle, device=device, decode=decode, unpack_zip=unpack_zip
    )

    import signal
    import sys

    from xray_batch.libraries import uncollected

    # Until the service runs there is nothing to finish.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    with uncollected():
        from xray_batch.bundle import find_bundle
        from xray_batch.database import check_file, sqlite_path
        from xray_batch.intake import Folders
        from xray_batch.pipeline.engine import Pipeline
        from xray_batch.service import HealthServer, Service, Vitals, only_service

    folders = Folders(settings.home.absolute())
    folders.create()
    embedded = sqlite_path(settings.resolved_database_url) is not None
    lock = only_service(folders) if embedded else nullcontext()
    bundle_in_use = find_bundle(settings.bundle, folders.bundles)
    vitals = Vitals()
    with (
        lock,
        HealthServer(settings.health_address, folders.home, vitals),
        _open_store_at_last(settings, vitals) as store,
        Pipeline(bundle_in_use, settings) as pipeline,
    ):
        if embedded:
            check_file(settings.resolved_database_url)
            store.end_leases()  # whoever held them had the lock before us
        pipeline.load()
        service = Service(folders, pipeline, store, settings, vitals)
        signal.signal(signal.SIGTERM, service.stop)
        signal.signal(signal.SIGINT, service.stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup(1) has it
            signal.signal(signal.SIGHUP, service.stop)
        service.run()


@contextmanager
def _open_store_at_last(settings: Settings, vitals: "Vitals") -> "Iterator[Store]":
    """Open the database, if need be after an outage: a restart by systemd would not mend it."""
    import time
    from contextlib import ExitStack

    from xray_batch.logs import get_logger
    from xray_batch.systemd import notify

    with ExitStack() as stack:
        while True:
            try:
                store = stack.enter_context(open_store(settings))
                break
            except DatabaseUnavailableError as error:
                get_logger().error("waiting for the database", why=str(error), retry_seconds=_RETRY_SECONDS)
                vitals.health.beat()
                vitals.metrics.database.set(0)
                notify(f"EXTEND_TIMEOUT_USEC={int(10 * _RETRY_SECONDS * 1e6)}")
                time.sleep(_RETRY_SECONDS)
        yield store

"""`xray-batch watch`."""

from contextlib import nullcontext

from xray_batch.cli.options import BundleName, Config, DatabaseUrl, Device, Home, open_settings, open_store


def watch(
    bundle: BundleName = None,
    device: Device = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Watch the inbox and classify what arrives, until stopped by SIGTERM or Ctrl-C."""
    settings = open_settings(home, config, database_url, bundle=bundle, device=device)

    import signal

    from xray_batch.bundle import find_bundle
    from xray_batch.database import sqlite_path
    from xray_batch.intake import Folders
    from xray_batch.pipeline.engine import Pipeline
    from xray_batch.service import Service, only_service

    folders = Folders(settings.home.absolute())
    folders.create()
    embedded = sqlite_path(settings.resolved_database_url) is not None
    lock = only_service(folders) if embedded else nullcontext()
    bundle_in_use = find_bundle(settings.bundle, folders.bundles)
    with lock, open_store(settings) as store, Pipeline(bundle_in_use, settings) as pipeline:
        service = Service(folders, pipeline, store, settings)
        signal.signal(signal.SIGTERM, service.stop)
        signal.signal(signal.SIGINT, service.stop)
        service.run()

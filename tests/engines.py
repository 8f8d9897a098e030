"""Marks for tests that start the service, and whose matter does not depend on the database: they run on one engine.

The others run on both, and so do those of the store, whose statements all of them share.
"""

import pytest

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

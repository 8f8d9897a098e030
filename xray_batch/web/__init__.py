"""The worklist page: results for people who would rather look than query.

It reads the database and the originals.  What it writes are events, one for each picture that somebody is shown, and,
for users who may, the queue of what is to be answered once more.
"""

from xray_batch.web.server import serve

__all__ = ["serve"]

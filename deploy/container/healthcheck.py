"""Ask the service in this container whether its loop gets on; exit code 0 if so.

It asks `/livez` on the socket in the home folder.  Whether the database answers and the disk has room is `/readyz`:
a container that waits for its database is well, and starting it again would mend nothing.
"""

import os
import socket
import sys
from pathlib import Path

SECONDS = 5


def main() -> int:
    """Return 0 if the service answers that it lives."""
    path = Path(os.environ["XRAY_BATCH_HOME"]) / "health.sock"
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SECONDS)
            connection.connect(str(path))
            connection.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            status = connection.makefile("rb").readline().split()
    except OSError:
        return 1
    return 0 if status[1:2] == [b"200"] else 1


if __name__ == "__main__":
    sys.exit(main())

"""`python -m deploy.ready`: exit code 0 when this container's process may get traffic, else 1.

For engines that judge by a command. Kubernetes asks the internal port itself.
"""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS = 2.0


def main(environ: Mapping[str, str]) -> int:
    """Ask /readyz of the internal port on loopback."""
    port = int(environ.get("CARILLON_INTERNAL_PORT") or 9090)
    connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/readyz")
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, HTTPException):
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(os.environ))

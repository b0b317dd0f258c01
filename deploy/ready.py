"""`python -m deploy.ready [URL]`: exit code 0 when this container's process may get traffic, else 1.

For engines that judge by a command; Kubernetes asks the internal port itself. The URL is that of /readyz on
the internal port unless another is given.
"""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SECONDS = 2.0


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Ask once."""
    port = environ.get("CARILLON_INTERNAL_PORT") or "9090"
    url = urlsplit(arguments[0] if arguments else f"http://127.0.0.1:{port}/readyz")
    connection = HTTPConnection(url.netloc, timeout=SECONDS)
    try:
        connection.request("GET", url.path)
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, HTTPException):
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))

"""Whether the proxy in this container lives: exit code 0 if it does. For HEALTHCHECK.

It asks http://127.0.0.1:$PD_SERVER_PORT/liveness, or the URL that is its argument. A fleet without workers is
no illness of the proxy: who wants to know whether it serves asks /readiness.
"""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

_LIMIT_S = 4.0
"""why: below the timeout of HEALTHCHECK, so that its log says what was wrong."""


def main() -> None:
    """The command line."""
    port = os.environ.get("PD_SERVER_PORT", "30000")
    url = sys.argv[1] if len(sys.argv) > 1 else f"http://127.0.0.1:{port}/liveness"
    try:
        status = answered(url)
    except (OSError, HTTPException) as error:
        sys.exit(f"{url}: {error}")
    if status != 200:
        sys.exit(f"{url}: {status}")


def answered(url: str) -> int:
    """The status that a GET of `url` gets.

    Raises:
        OSError: nobody answers there, or not within _LIMIT_S.
        HTTPException: what answers speaks no HTTP.
    """
    asked = urlsplit(url)
    connection = HTTPConnection(asked.hostname or "", asked.port, timeout=_LIMIT_S)
    try:
        connection.request("GET", asked.path or "/")
        return connection.getresponse().status
    finally:
        connection.close()


if __name__ == "__main__":
    main()

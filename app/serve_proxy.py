"""Ray Serve's own HAProxy, kept to loopback and to the service: it would tell its routes and statistics to everybody.

Serve starts the binary that a variable names and has no other say in its configuration, so a script stands before it.
The service's secret is in files of the script's folder, never in arguments, which everybody may see.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from app.private_files import write_private
from deployments.principal import SECRET_HEADER

VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
SCRIPT = r"""#!/bin/sh
# Called as: haproxy -db -f CONFIGURATION ...
bind='^[[:space:]]*bind[[:space:]]*'
here='\(127\.0\.0\.1:\|unix@\)[^,]*$'
if [ "$2" = -f ]; then
    grep -qF -f @FOLDER@/rule "$3" || sed -i -f @FOLDER@/changes.sed "$3" || exit 1
    if grep "$bind" "$3" | grep -qv "$bind$here" || ! grep -qF -f @FOLDER@/rule "$3"; then
        echo "Serve's HAProxy would listen beyond loopback, or to everybody; see $3" >&2
        exit 1
    fi
fi
exec @BINARY@ "$@"
"""
CHANGES = r"""/^frontend prometheus$/,/^    no log$/d
/^listen stats$/,$d
s/^\([[:space:]]*bind[[:space:]]*\)\(\*\|0\.0\.0\.0\|\[::\]\|::\)\{0,1\}:\([0-9]\)/\1127.0.0.1:\3/
/^frontend http_frontend$/,/^[[:space:]]*bind[[:space:]]/{
/^[[:space:]]*bind[[:space:]]/r @FOLDER@/rule
}
"""
RULE = "    http-request deny deny_status 401 unless {{ path /-/healthz }} || {{ req.hdr({header}) -m str {secret} }}\n"


def write_wrapper(folder: Path, binary: str, secret: str) -> Path:
    """A program that Serve takes for HAProxy; its owner's alone. It lets in who brings the service's secret (hex)."""
    write_private(folder / "rule", RULE.format(header=SECRET_HEADER, secret=secret))
    write_private(folder / "changes.sed", CHANGES.replace("@FOLDER@", str(folder)))
    places = SCRIPT.replace("@FOLDER@", shlex.quote(str(folder))).replace("@BINARY@", shlex.quote(binary))
    write_private(folder / "haproxy", places, 0o700)
    return folder / "haproxy"

"""Ray Serve's own HAProxy, kept to loopback: it would serve two pages of statistics on all interfaces.

Serve starts the binary that a variable names and has no other say in its configuration, so a script stands before it.
"""

from __future__ import annotations

import shlex
from pathlib import Path

VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
SCRIPT = """\
#!/bin/sh
# Called as: haproxy -db -f CONFIGURATION ...
if [ "$2" = -f ]; then
    sed -i -e '/^frontend prometheus$/,/^    no log$/d' -e '/^listen stats$/,$d' \\
        -e 's/^\\( *bind \\)\\(\\*\\|0\\.0\\.0\\.0\\|\\[::\\]\\|::\\)\\{{0,1\\}}:\\([0-9]\\)/\\1127.0.0.1:\\3/' \\
        "$3" || exit 1
    if grep -E '^ *bind ' "$3" | grep -qv '^ *bind \\(127\\.0\\.0\\.1:\\|unix@\\)'; then
        echo "Serve's HAProxy would listen beyond loopback; see $3" >&2
        exit 1
    fi
fi
exec {binary} "$@"
"""


def write_wrapper(folder: Path, binary: str) -> Path:
    """A program that Serve takes for HAProxy; its owner's alone."""
    path = folder / "haproxy"
    path.touch(mode=0o700)
    path.chmod(0o700)
    path.write_text(SCRIPT.format(binary=shlex.quote(binary)))
    return path

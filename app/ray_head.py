"""`ray start` for the head, with a GCS that is started again when it dies; run as python -m app.ray_head start ...

Ray keeps in the GCS's memory what the cluster is: nodes, actors, their names. With its embedded store (cluster.py) all
of it is in a folder too, and a GCS that begins anew on the same port goes on where the one before it ended. Raylets,
actors and engines wait for it meanwhile. `ray start` itself would end everything, so a script stands before the binary.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from app.private_files import write_private

LOG_VARIABLE = "CORRAL_GCS_LOG"
"""Where the script says that it starts the GCS again; each line is the exit status of the one before."""
SCRIPT = r"""#!/bin/sh
# Runs Ray's GCS, and again when it was killed or failed. One that never lived for ten seconds is given up after five
# attempts; later the raylets are who lose patience, on a disk that stays full for example.
short=0 lived=no
seconds() { cut -d. -f1 /proc/uptime; } # nobody can set it
ended() { kill -TERM "$pid" 2>/dev/null; wait "$pid"; exit 143; }
trap ended TERM INT
while :; do
    began=$(seconds)
    @BINARY@ "$@" &
    pid=$!
    wait "$pid"
    status=$?
    case $status in 0|143) exit "$status" ;; esac
    if [ $(($(seconds) - began)) -ge 10 ]; then lived=yes short=0; else short=$((short + 1)); fi
    [ "$lived" = no ] && [ "$short" -ge 5 ] && exit "$status"
    echo "$status" >> @LOG@
    if [ "$short" -le 1 ]; then sleep 0.2; else sleep 1; fi
done
"""


def write_script(folder: Path, binary: str, log: str) -> Path:
    """The script that Ray takes for its GCS; its owner's alone."""
    text = SCRIPT.replace("@BINARY@", shlex.quote(binary)).replace("@LOG@", shlex.quote(log))
    write_private(folder / "gcs_server", text, 0o700)
    return folder / "gcs_server"


def main() -> None:
    from ray._private import services
    from ray.scripts import scripts

    if log := os.environ.get(LOG_VARIABLE):
        services.GCS_SERVER_EXECUTABLE = str(write_script(Path(log).parent, services.GCS_SERVER_EXECUTABLE, log))
    sys.exit(scripts.main())


if __name__ == "__main__":
    main()

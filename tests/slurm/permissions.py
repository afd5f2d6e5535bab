"""Whether this host lets us build machines, and if not, which call it refuses."""

from __future__ import annotations

import os
import subprocess

_SPACES = ["--net", "--uts", "--mount", "--pid", "--ipc", "--fork", "--mount-proc"]
_DEVICE = "mount -t tmpfs probe /mnt && mknod /mnt/gpu c 1 3 && : </mnt/gpu"
PROBES = {
    "new namespaces": ["unshare", *_SPACES, "true"],
    "a hostname": ["unshare", "--uts", "sh", "-c", "echo probe >/proc/sys/kernel/hostname"],
    "the freezer cgroups": ["unshare", "--mount", "mount", "-t", "cgroup", "-o", "freezer", "cgroup", "/mnt"],
    "a device file": ["unshare", "--mount", "sh", "-c", _DEVICE],
    "a bridge": ["unshare", "--net", "ip", "link", "add", "br0", "type", "bridge"],
    "a cable": ["unshare", "--net", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"],
}


def why_not() -> str:
    """Nothing, or what is refused and with which words."""
    if os.geteuid() != 0:
        return "machines need root"
    for what, argv in PROBES.items():
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            return f"this host refuses {what} ({' '.join(argv)}): {done.stderr.strip()}"
    return ""

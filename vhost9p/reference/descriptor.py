"""The descriptor by which management software finds the backend: a JSON file in
share/qemu/vhost-user (docs/interop/vhost-user.json of QEMU)."""

import json
import os
import sysconfig

CAPABILITIES = {"type": "9p", "features": []}
"""What --print-capabilities prints."""


def text() -> str:
    """Returns the JSON, with the path that this Python installs the program at."""
    descriptor = {
        "description": "vhost9p, a vhost-user virtio-9p server",
        "type": CAPABILITIES["type"],
        "binary": os.path.join(sysconfig.get_path("scripts"), "vhost9p"),
    }
    return json.dumps(descriptor, indent=2) + "\n"

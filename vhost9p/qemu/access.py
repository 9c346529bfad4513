"""What lets a QEMU that libvirt starts connect to the daemon's sockets.

libvirt confines QEMU to the files in the domain's XML, and knows nothing of those in a
<qemu:commandline>: AppArmor's abstraction for all domains has a local part
(/etc/apparmor.d/abstractions/libvirt-qemu), and SELinux lets a domain use what is labelled as an
image (https://libvirt.org/drvqemu.html, "sVirt").
"""

import re
import shlex
from collections.abc import Iterable, Iterator

APPARMOR_FILE = "/etc/apparmor.d/local/abstractions/libvirt-qemu"
SELINUX_TYPE = "svirt_image_t"


def advice(sockets: Iterable[str]) -> Iterator[str]:
    """Yields comments with what each kind of access control takes."""
    sockets = list(sockets)
    yield (
        "# QEMU runs as a user of libvirt's: let its group connect (socket_group: kvm and "
        'socket_mode: "0660" on Debian).'
    )
    yield f"# With AppArmor, add to {APPARMOR_FILE}:"
    yield from (f'#   "{_apparmor_path(each)}" rw,' for each in sockets)
    yield "# With SELinux, once, and then after each start of the daemon:"
    for each in sockets:
        pattern, path = shlex.quote(re.escape(each)), shlex.quote(each)
        yield f"#   semanage fcontext -a -t {SELINUX_TYPE} {pattern}"
        yield f"#   restorecon -v {path}"
    yield (
        "# If ausearch -m avc -c qemu-system-x86 still shows connectto, the daemon's own type is "
        "to be allowed: audit2allow."
    )


def _apparmor_path(path: str) -> str:
    """A path as it stands in a profile (apparmor.d(5)): nothing in it is a pattern."""
    return re.sub(r'[\\"*?\[\]{}^@]', lambda found: "\\" + found[0], path)

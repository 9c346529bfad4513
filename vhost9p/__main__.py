"""`python -m vhost9p`, and the command `vhost9p`."""

import gc
import sys

from vhost9p import signals


def main() -> int:
    """Runs the daemon; returns the process's exit code. Sees to signals first, since the other
    modules take a while to load. They stay, so nobody looks for garbage among them."""
    signals.ignore()
    signals.leave_on_stop()
    gc.disable()
    from vhost9p import cli

    gc.freeze()
    gc.enable()
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())

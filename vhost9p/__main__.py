"""`python -m vhost9p`, and the command `vhost9p`."""

import sys

from vhost9p import signals


def main() -> int:
    """Runs the daemon; returns the process's exit code. Sees to signals first, since the other
    modules take a while to load."""
    signals.ignore()
    signals.leave_on_stop()
    from vhost9p import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())

"""`vhost9p why`: what a guest's user may do with a path, and why not, without a guest
(verdicts.py)."""

import argparse
from dataclasses import asdict

from vhost9p.cli_parser import typed
from vhost9p.config_values import ID_MAX, parse_number
from vhost9p.errors import EXIT_FAILURE, UserError
from vhost9p.escapes import name_bytes, to_json, unescape
from vhost9p.log_record import one_line

SUMMARY = "say what a guest may do with a path, and why not"
DETAILS = (
    "Run it as the user of the daemon. Exits with 0 if all that applies to the file is allowed, "
    "with 1 if something is refused or the path is not reached, and with 2 for an error in the "
    "configuration or the options."
)
EXAMPLE = "vhost9p why vm.yaml /home/ann/notes --uid 1000 --gid 1000"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration, the path and the user."""
    number = typed(parse_number(0, ID_MAX))
    parser.add_argument("config", metavar="FILE", help="configuration of the VM")
    parser.add_argument(
        "path",
        metavar="PATH",
        help="path below the guest's mount, with escapes as in the log",
    )
    parser.add_argument("--uid", type=number, default=0, help="user in the guest (default: 0)")
    parser.add_argument("--gid", type=number, default=0, help="group in the guest (default: 0)")
    parser.add_argument("--tag", help="mount tag of the device, if the VM has several")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Prints the answer; returns the exit code."""
    from vhost9p import config_file, preflight, verdicts

    config = preflight.settle(config_file.load(options.config, socket_needed=False))
    devices = [each for each in config.devices if options.tag in (None, each.tag)]
    if len(devices) != 1:
        tags = ", ".join(each.tag for each in config.devices)
        what = "has several devices" if devices else f"has no device with the tag {options.tag!r}"
        raise UserError(f"{options.config}: {what}; choose one by --tag: {tags}")
    (device,) = devices
    inspector = verdicts.Inspector(device, options.uid, options.gid)
    path = name_bytes(unescape(options.path))
    answer = inspector.ask(path)
    if options.json:
        said = {"tag": device.tag, "path": path, "uid": options.uid, "gid": options.gid}
        print(to_json({**said, "allowed": answer.is_allowed, **asdict(answer)}, indent=2))
    else:
        print(*map(one_line, verdicts.lines(answer)), sep="\n")
    return 0 if answer.is_allowed else EXIT_FAILURE

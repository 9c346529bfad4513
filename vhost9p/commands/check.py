"""`vhost9p check`: reports whether configurations can be served here, and what to expect.

Errors are those at which serving would end (preflight.py). What is right, or not as somebody may
expect, is found out beside (examine_exports.py, examine_host.py).
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from vhost9p import config as c
from vhost9p import config_file
from vhost9p.cli_config import absolute
from vhost9p.errors import Problems, UserError
from vhost9p.escapes import to_json
from vhost9p.findings import Finding, as_lines, as_plain, error, exit_code, ok, warning
from vhost9p.log_record import one_line

SUMMARY = "report whether a configuration can be served, and what to expect"
DETAILS = (
    "Changes nothing, and does not disturb a daemon that serves the same. Exits with 2 if there is "
    "an error, with --strict with 1 if there is a warning, else with 0."
)
EXAMPLE = """vhost9p check vm.yaml
vhost9p check --config-dir /etc/vhost9p/vms --strict --json"""
NOT_SERVED = "serving does not begin"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options to a parser."""
    parser.add_argument("file", nargs="?", metavar="VM.yaml", help="configuration of a VM")
    parser.add_argument("--config-dir", metavar="DIR", help="a directory of configurations")
    parser.add_argument("--qemu", metavar="PATH", help="the VM's QEMU (default: the one in PATH)")
    parser.add_argument("--json", action="store_true", help="print a list for programs")
    parser.add_argument("--strict", action="store_true", help="let a warning count as a failure")


def run(options: argparse.Namespace) -> int:
    """Prints the report, and returns the exit code. Raises UserError, OSError."""
    from vhost9p.examine_host import examine_qemu

    alone = options.file is not None
    findings = [*_of_files(_files(options), alone=alone), examine_qemu(options.qemu)]
    if not alone:
        findings = [*_of_folder(options.config_dir), *findings]
    if options.json:
        print(to_json(as_plain(findings), indent=2))
    else:
        for line in as_lines(findings):
            print(one_line(line))
    sys.stdout.flush()
    return exit_code(findings, strict=options.strict)


def _files(options: argparse.Namespace) -> list[str]:
    if (options.file is None) == (options.config_dir is None):
        raise UserError("name either a configuration or a --config-dir: vhost9p check VM.yaml")
    if options.file is not None:
        return [options.file]
    from vhost9p.vm_folder import names_of_files

    folder = absolute(options.config_dir)
    try:
        return names_of_files(folder)
    except OSError as problem:
        raise UserError(f"--config-dir: {folder} cannot be read: {problem.strerror}") from None


def _of_folder(folder: str) -> Iterator[Finding]:
    """Says if nothing is served of a directory: its files may have other names. Raises OSError."""
    from vhost9p.vm_folder import SUFFIX, names_of_files

    if not names_of_files(absolute(folder)):
        yield warning(
            folder,
            f"there is no file *{SUFFIX} in it",
            "no VM is served until one is there, and the daemon reloads",
            f"name the configuration of each VM NAME{SUFFIX}",
        )


def _of_files(files: list[str], *, alone: bool) -> Iterator[Finding]:
    """Checks each file, beside those before it."""
    beside: list[c.Config] = []
    for file in files:
        found = [*_of_file(file, beside, alone=alone)]
        if len(files) > 1:
            name = os.path.splitext(os.path.basename(file))[0]
            found = [replace(each, subject=f"{name}: {each.subject}") for each in found]
        yield from found


def _of_file(file: str, beside: list[c.Config], *, alone: bool) -> Iterator[Finding]:
    """Checks a file, and adds it to those that others have to get on with. One that is `alone` may
    be meant for `vhost9p run`, which needs no socket. Raises OSError."""
    from vhost9p import examine_exports, examine_host, preflight
    from vhost9p.policy.mounts import MountTable

    problems = Problems()
    config = None
    with problems.collect():
        config = config_file.read(file, problems, socket_needed=not alone, in_folder=not alone)
    wrong = [preflight.with_remedy("", file, text, "correct the file") for text in problems.texts]
    if config:
        found = preflight.find_problems(config, beside)
        wrong += [each for each in found if str(each) not in problems.texts]
    for each in wrong:
        remedy = each.remedy or each.otherwise
        yield error(each.subject, each.origin + each.text, NOT_SERVED, remedy)
    if wrong or config is None:
        return
    beside.append(config)
    yield ok(file, "the configuration has no errors")
    settled = preflight.settle(config)
    with closing(MountTable()) as table:
        yield from examine_exports.examine(config, settled, table)
    yield from examine_host.examine(settled)

"""The command line: runs a command, or the daemon, and returns the process's exit code.

Exit codes of the daemon: 0 after SIGTERM, SIGINT or --once. 2 for an error that stays until
somebody fixes it, in the options, the configuration, or what they name (a missing directory, a
missing right). 1 if serving cannot begin for another reason: another process uses the socket or the
state, or the host lacks a resource. All errors are reported at once, one line each.

The first word is the name of a command (commands/), unless it begins with a dash.
"""

import argparse
import json
import os
import signal
import sys
from functools import partial

from vhost9p import cli_config, cli_device, cli_options, commands, handover
from vhost9p import config as c
from vhost9p.errors import EXIT_FAILURE, EXIT_USAGE, Problems, UserError
from vhost9p.log_format import journal_problem
from vhost9p.output import choose_form, is_stdout_broken, say, silence_stdout, start_log
from vhost9p.reference.descriptor import CAPABILITIES
from vhost9p.saved_state import Unreadable

FOLDER_EXCLUDES = ("config", *cli_device.PLACE, *cli_device.WHAT)


def _serve_folder(options: argparse.Namespace, problems: Problems) -> int:
    """Serves the VMs of --config-dir."""
    names = [cli_device.option(key) for key in cli_device.given(options, FOLDER_EXCLUDES)]
    names += [cli_device.option(key) for key in ("once", "print_limits") if getattr(options, key)]
    if names:
        problems.add(
            f"--config-dir excludes {', '.join(names)}: each VM has a file of its own. Allowed "
            "with it are --force, --state-dir, --sandbox, --seccomp, --log-level, --log-format, "
            "--log-time, --log-failures, --control-socket and --metrics"
        )
    folder = options.config_dir
    with problems.collect():
        if options.state_dir is not None:
            options.state_dir = cli_config.absolute(options.state_dir)
        folder = cli_config.absolute(folder)
    if options.log_format == "journald" and (why := journal_problem()):
        problems.add(f"--log-format: {why}")
    from vhost9p import activation, vm_folder

    sockets, kept = activation.take()
    if sockets:
        which = ", ".join(each.name or "one without a name" for each in sockets)
        problems.add(f"--config-dir takes no sockets of the service manager: {which}")
    if not kept:  # a mistake is no reason to end VMs that run
        _demand_folder(folder, problems)
        problems.raise_all()

    def load(file: str) -> c.Config:
        found = Problems()
        found.add(*problems.texts)
        found.raise_all()
        with found.collect():
            config = cli_config.from_file(file, options, {}, found, in_folder=True)
        found.raise_all()
        return cli_config.with_overrides(config, options)

    start_log(options.log_level or c.Config(()).log_level, *_form(options))
    return vm_folder.run(folder, load, options.control_socket, options.metrics, kept)


def _demand_folder(folder: str, problems: Problems) -> None:
    try:
        if not handover.is_due():
            os.listdir(folder)
    except OSError as error:
        problems.add(f"--config-dir: {folder} cannot be read: {error.strerror}")


def _form(options: argparse.Namespace) -> tuple[c.LogFormat, c.LogTime]:
    if handover.is_due():  # maybe a trial, whose output another process reads
        return "text", "never"
    return options.log_format or "auto", options.log_time or "auto"


def _print_limits(config: c.Config | None) -> int:
    from vhost9p import limits

    assert config is not None, "it is None only after an error"
    for line in limits.report(config):
        print(line)
    return 0


def _serve(words: list[str]) -> int:
    problems = Problems()
    options, wrong = cli_options.build_parser(commands.summaries).read(words, problems)
    if options.print_capabilities and not problems.texts:
        print(json.dumps(CAPABILITIES))
        return 0
    if options.print_schema and not problems.texts:
        from vhost9p.reference import schema

        print(schema.text(), end="")
        return 0
    # What is wrong with the options answers who has typed them, now.
    choose_form(_form(options)[0], options.log_time or ("auto" if options.log_format else "never"))
    if options.config_dir is not None:
        return _serve_folder(options, problems)
    if handover.is_due():
        problems.raise_all()
        return _go_on(words)
    from vhost9p import activation

    sockets, kept = activation.take()
    config = None
    with problems.collect():
        config = cli_config.build_config(
            options, wrong, problems, socket_needed=not activation.can_place(sockets)
        )
    with problems.collect():
        if config and not problems.texts:
            config = activation.place(config, sockets)
    if options.print_limits:
        problems.raise_all()
        return _print_limits(config)
    # Late, so that --help does not wait for the event loop and the 9P server to load.
    from vhost9p import preflight, single_vm

    with problems.collect():
        config = config and preflight.check(config)
    if problems.texts and kept:  # a mistake is no reason to end a VM that runs
        return single_vm.go_on_unchanged(problems.texts, sockets, kept, partial(_load, words))
    problems.raise_all()
    assert config is not None, "it is None only after an error"
    start_log(config.log_level, config.log_format, config.log_time)
    return single_vm.run(config, kept, partial(_load, words))


def _load(words: list[str]) -> c.Config:
    """Reads the configuration again that the options name. Devices may lack a socket, since they
    have one. Raises UserError."""
    problems = Problems()
    options, wrong = cli_options.build_parser(commands.summaries).read(words, problems)
    config = None
    with problems.collect():
        config = cli_config.build_config(options, wrong, problems, socket_needed=False)
    problems.raise_all()
    assert config is not None, "it is None only after an error"
    return config


def _go_on(words: list[str] | None = None) -> int:
    """Goes on with the VM of the version before, with the configuration that it has, which was made
    of these words; None: a command has made it."""
    from vhost9p import single_vm

    return single_vm.go_on(None if words is None else partial(_load, words))


def main(argv: list[str] | None = None) -> int:
    """Runs a command, or the daemon; returns the process's exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if words and not words[0].startswith("-"):
            # A daemon that a command has started is replaced as others are, without the command.
            return _go_on() if handover.is_due() else commands.execute(words[0], words[1:])
        return _serve(words)
    except UserError as error:
        for problem in error.problems:
            say(problem)
        return EXIT_USAGE
    except Unreadable as error:
        say(str(error))
        return EXIT_FAILURE
    except OSError as error:
        if isinstance(error, BrokenPipeError) and is_stdout_broken():
            silence_stdout()  # who has read it needs no more, as `head`
            return 128 + signal.SIGPIPE  # as a shell says it
        say(f"{error.filename or 'error'}: {error.strerror or error}")
        return EXIT_FAILURE

"""The whole daemon under ThreadSanitizer: several devices, several threads each, everything at
once. What it reports of the C part is a data race, a descriptor that is used after its close, or
two locks that are taken in either order."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from tests.system import thread_sanitizer
from tests.system.mixed_load import Crowd, fill
from tests.system.share import SECURITY

pytestmark = pytest.mark.full

TURNS = 25
FILES = 256
"""RLIMIT_NOFILE; at half of it descriptors are given up."""

CONFIG = """
devices:
  - socket: {run}/a
    tag: a
    path: {plain}
    security_model: {model}
    multidevs: remap
    threads: 4
  - socket: {run}/b
    tag: b
    path: {plain}
    security_model: {model}
    threads: 4
  - socket: {run}/c
    tag: c
    path: {mapped}
    security_model: mapped-file
    threads: 4
    quota: {{bytes: 64MiB}}
  - socket: {run}/d
    tag: d
    path: {attributes}
    security_model: mapped-xattr
    threads: 4
    throttling: {{iops-total: 2000}}
"""


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The instrumented package."""
    if not thread_sanitizer.runtime():
        pytest.skip("the compiler has no ThreadSanitizer")
    folder = tmp_path_factory.mktemp("sanitized")
    thread_sanitizer.build(folder)
    return folder


def test_no_races(sanitized: Path, scratch: Path) -> None:
    directories = {name: scratch / f"races-{name}" for name in ("plain", "mapped", "attributes")}
    for directory in directories.values():
        fill(os.fspath(directory))
    config = sanitized / "config.yaml"
    daemon = thread_sanitizer.Sanitized(sanitized, "--force", "--config", str(config), files=FILES)
    config.write_text(CONFIG.format(run=daemon.directory, model=SECURITY[1], **directories))
    crowds = [
        Crowd(f"{daemon.directory}/{name}", seed, dialect_u=name == "b", packed=name in "bd")
        for seed, name in enumerate("abcd")
    ]
    with daemon, ThreadPoolExecutor(len(crowds)) as pool:
        running = [pool.submit(crowd.run, TURNS) for crowd in crowds]
        wait(running)
    assert not (reports := daemon.reports()), reports
    for each in running:
        each.result()
    assert min(crowd.answered for crowd in crowds) > 1000

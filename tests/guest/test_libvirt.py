"""`vhost9p qemu --format libvirt` prints a domain that libvirt accepts."""

from __future__ import annotations

from pathlib import Path

from lxml import etree

from tests.frontend.daemon import run_cli
from tests.guest import fetch
from tests.guest.conftest import Loud
from vhost9p.qemu.formats import QEMU_NAMESPACE


def test_libvirts_schema_accepts_the_domain(tmp_path: Path, loud: Loud) -> None:
    schema = etree.RelaxNG(file=str(loud(fetch.libvirt_schemas) / "domain.rng"))
    folder = tmp_path / "a <b> & 'ü', --c"
    (folder / "share").mkdir(parents=True)
    config = folder / "vm.yaml"
    config.write_text(
        "devices:\n  - {socket: a, tag: a, path: share}\n"
        "  - {socket: b, tag: b, path: share, readonly: true}\n"
    )
    done = run_cli("qemu", str(config), "--format", "libvirt", "--memory", "1536M")
    domain = etree.fromstring(done.stdout)
    assert schema.validate(domain), schema.error_log
    words = [each.get("value") for each in domain.iter(f"{{{QEMU_NAMESPACE}}}arg")]
    assert words[::2] == ["-chardev", "-device"] * 2
    path = f"{folder}/a".replace(",", ",,")
    assert words[1] == f"socket,id=vhost9p-c0,path={path}"
    assert domain.findtext("memory") == "1536"
    assert domain.find("memoryBacking/access").get("mode") == "shared"
    broken = done.stdout.replace("<access ", "<excess ")
    assert not schema.validate(etree.fromstring(broken)), "the schema is applied"
    assert f'#   "{folder}/a" rw,' in done.stderr
    assert "svirt_image_t" in done.stderr

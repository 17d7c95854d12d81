"""The shipped files of systemd and of HAProxy, judged by the programs that will read them."""

from __future__ import annotations

import configparser
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from node import config
from tests.broker import free_port, running, wait_for
from tests.unit.sandbox import restrict

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_unit_is_hardened() -> None:
    result = run("systemd-analyze", "security", "--offline=true", "--threshold=20", "systemd/mqnode.service")
    assert result.returncode == 0, result.stdout[-500:] + result.stderr
    assert "unknown" not in result.stderr.lower()  # a misspelt key would only be warned of


def test_the_unit_gives_the_stop_as_long_as_supervisord_takes() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.read(ROOT / "systemd/mqnode.service")
    programs = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    programs.read_string((ROOT / "deploy/supervisord.conf").read_text().replace("$user", ""))
    waits_s = [programs.getint(name, "stopwaitsecs") for name in programs.sections() if name.startswith("program:")]
    assert len(waits_s) == 5
    assert sum(waits_s) + config.Config().node.drain_s < unit.getint("Service", "TimeoutStopSec")
    assert unit.get("Service", "Type") == "notify"
    assert unit.get("Service", "NotifyAccess") == "all"  # the watchdog speaks, not the main process


def test_a_host_with_an_interconnect_runs_with_what_the_unit_leaves_it() -> None:
    with ThreadPoolExecutor(1) as restricted:  # the thread, and what it starts
        restricted.submit(run_under_the_unit).result()


def run_under_the_unit() -> None:
    lines = (ROOT / "systemd/mqnode.service").read_text().splitlines()
    keys = [line.partition("=")[::2] for line in lines if "=" in line]
    [families] = [value for key, value in keys if key == "RestrictAddressFamilies"]
    restrict([value for key, value in keys if key == "SystemCallFilter"], families)
    with pytest.raises(PermissionError):
        os.sched_setaffinity(0, os.sched_getaffinity(0))
    with running(f'[interconnect]\nbind = "127.0.0.1:{free_port()}"\n', workers=1) as broker:
        wait_for(lambda: broker.get("/insync")[0] == 200, 10, broker.log)
        for name in ("keeper", "worker-0", "interconnect"):
            assert "\nSeccomp:\t2\n" in Path(f"/proc/{broker.pid(name)}/status").read_text()
        assert broker.stop() == 0
        assert not broker.errors()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes folders for another user")
def test_sysusers_and_tmpfiles(tmp_path: Path) -> None:
    for name, tool in (("sysusers", "systemd-sysusers"), ("tmpfiles", "systemd-tmpfiles")):
        target = tmp_path / "etc" / f"{name}.d"
        target.mkdir(parents=True)
        (target / "mqnode.conf").write_text((ROOT / f"systemd/mqnode.{name}").read_text())
        command = [tool, f"--root={tmp_path}", *(["--create"] if name == "tmpfiles" else [])]
        result = run(*command, str(target / "mqnode.conf"))
        assert result.returncode == 0, result.stderr
    assert "mqnode" in (tmp_path / "etc/passwd").read_text()


def test_sysctl_names_exist() -> None:
    for line in (ROOT / "systemd/50-mqnode.conf").read_text().splitlines():
        if line and not line.startswith("#"):
            name = line.partition("=")[0].strip()
            path = Path("/proc/sys") / name.lstrip("-").replace(".", "/")
            assert path.exists() or name.startswith("-") or not Path("/proc/sys/net/core/somaxconn").exists(), name


@pytest.mark.parametrize("name", ["haproxy.cfg", "haproxy-roundrobin.cfg"])
def test_haproxy_takes_the_example(name: str) -> None:
    result = run("haproxy", "-c", "-f", f"deploy/{name}")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_configuration_of_make_run_loads() -> None:
    settings = config.load(ROOT / "deploy/mqnode.toml")
    assert all(listener.bind.startswith("127.0.0.1:") for listener in settings.listeners)

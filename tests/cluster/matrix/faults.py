"""F1 to F15 of the fault matrix: each strikes a cluster under load and returns when what it did is undone."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.broker import wait_for
from tests.cluster.hosts import Host, admit, in_sync
from tests.cluster.matrix.cluster import Cluster
from tests.cluster.matrix.history import History
from tests.disk import no_byte_left

EVICTED_S = 4.5  # a cut that lasts so long is seen by everybody
ANSWERS = 400  # to publishers, while a fault holds
GAP_S = 6.0  # without an acknowledgement: eviction, half a second, and a client that has to connect again


@dataclass(frozen=True)
class Fault:
    """`split`: hosts do not see each other while it holds; `stands_still`: as one of them does nothing; `may_split`: on a busy
    machine they may evict each other. `hosts`: so many it takes. Not `in_make_test`: it takes long, or is much as others are."""

    id: str
    name: str
    strike: Callable[[Cluster, Random, History], None]
    split: bool = False
    stands_still: bool = False
    may_split: bool = False
    gap_s: float = GAP_S
    hosts: int = 2
    in_make_test: bool = True


def _said(host: Host, name: str, event: str) -> int:
    """How many times, by the log."""
    return host.log().count(f'"process":"{name}","event":"{event}"')


def _replace(host: Host, name: str, number: int = signal.SIGKILL) -> None:
    """Until the new process says that it is ready: before that the counters are those of the old one."""
    before = _said(host, name, "ready")
    host.signal(name, number)
    wait_for(lambda: _said(host, name, "ready") > before, 20, host.log)
    host.wait_ready()


def _last(cluster: Cluster, history: History) -> None:
    """Until everybody knows; of two hosts each is alone then."""
    with history.nobody_else() if len(cluster.hosts) == 2 else nullcontext():
        time.sleep(EVICTED_S)


def worker_kill(cluster: Cluster, chance: Random, history: History) -> None:
    for host in chance.sample(cluster.hosts, len(cluster.hosts)):
        _replace(host, f"worker-{chance.randrange(host.workers)}")


def keeper_kill(cluster: Cluster, chance: Random, history: History) -> None:
    for host in chance.sample(cluster.hosts, len(cluster.hosts)):
        _replace(host, "keeper")


def host_kill(cluster: Cluster, chance: Random, history: History) -> None:
    host = chance.choice(cluster.hosts)
    host.kill_all()
    _last(cluster, history)
    host.start()


def _pause(host: Host, names: list[str], seconds: float) -> None:
    with host.standing_still(*names):
        time.sleep(seconds)
    host.wait_ready()


def _hang(host: Host, name: str) -> None:
    """Until the watchdog has seen it."""
    wait_for(lambda: host.age_s(name) > 6, 20, f"{name} is too young to be judged by its heartbeat")
    _replace(host, name, signal.SIGSTOP)


def worker_pause(cluster: Cluster, chance: Random, history: History) -> None:
    for host in cluster.hosts:
        _pause(host, [f"worker-{chance.randrange(host.workers)}"], 1.0)


def worker_hangs(cluster: Cluster, chance: Random, history: History) -> None:
    host = chance.choice(cluster.hosts)
    _hang(host, f"worker-{chance.randrange(host.workers)}")


def keeper_hangs(cluster: Cluster, chance: Random, history: History) -> None:
    _hang(chance.choice(cluster.hosts), "keeper")


def keeper_pause(cluster: Cluster, chance: Random, history: History) -> None:
    _pause(chance.choice(cluster.hosts), ["keeper"], 1.0)


def host_pause(cluster: Cluster, chance: Random, history: History) -> None:
    """Longer than it takes to be evicted: what it thinks to own when it wakes up is another's, a publisher of QoS 2 too."""
    [host] = [host for host in cluster.hosts if host.get("/v1/clients/flow-p2")[0] == 200]
    _pause(host, [], EVICTED_S + 0.5)


def host_stands_still(cluster: Cluster, chance: Random, history: History) -> None:
    """So long that everybody has forgotten it: clients, the balancer, the digests."""
    _pause(chance.choice(cluster.hosts), [], 30.0)


def power_loss(cluster: Cluster, chance: Random, history: History) -> None:
    host = chance.choice(cluster.hosts)
    cluster.lose_power(host, chance)
    _last(cluster, history)
    host.start()


def power_loss_of_all(cluster: Cluster, chance: Random, history: History) -> None:
    for host in cluster.hosts:
        cluster.lose_power(host, chance)
    for host in chance.sample(cluster.hosts, len(cluster.hosts)):
        host.start()


def cut(cluster: Cluster, chance: Random, history: History) -> None:
    cluster.network.cut_interconnect(chance.choice(cluster.hosts).name)
    _last(cluster, history)
    cluster.network.heal()


def cut_one_way(cluster: Cluster, chance: Random, history: History) -> None:
    one, other = chance.sample(cluster.hosts, 2)
    cluster.network.cut(one.name, other.name, both=False)
    _last(cluster, history)
    cluster.network.heal()


def cut_between_two(cluster: Cluster, chance: Random, history: History) -> None:
    """A third one sees both."""
    one, other = chance.sample(cluster.hosts, 2)
    cluster.network.cut(one.name, other.name)
    time.sleep(EVICTED_S)
    cluster.network.heal()


def flapping(cluster: Cluster, chance: Random, history: History) -> None:
    for _ in range(4):
        cluster.network.cut_interconnect(cluster.hosts[0].name)
        time.sleep(1.0)
        cluster.network.heal()
        time.sleep(1.0)


def clients_cut(cluster: Cluster, chance: Random, history: History) -> None:
    """Half-open connections: nobody is told, and the balancer has to find out."""
    cluster.network.cut_clients(chance.choice(cluster.hosts).name)
    time.sleep(EVICTED_S)
    cluster.network.heal()
    wait_for(lambda: len(cluster.balancer.up()) == len(cluster.hosts), 15, "the balancer does not see all hosts")


def bad_line(cluster: Cluster, chance: Random, history: History) -> None:
    """50 to 80 ms each way, which reorders, some frames twice, one in fifty lost."""
    name = chance.choice(cluster.hosts).name
    cluster.network.slow(name, 50, jitter_ms=30, duplicate_percent=1)
    cluster.network.lose(name, 2)
    time.sleep(EVICTED_S)
    cluster.network.heal()


def narrow_line(cluster: Cluster, chance: Random, history: History) -> None:
    """64 kbit/s for more than that."""
    cluster.network.narrow(chance.choice(cluster.hosts).name, 64)
    time.sleep(EVICTED_S)
    cluster.network.heal()


def clock_steps(cluster: Cluster, chance: Random, history: History) -> None:
    """The wall clock of one host is an hour ahead, then an hour behind. Whoever is behind sees it."""
    wrong, right = chance.sample(cluster.hosts, 2)
    shim = cluster.shims[wrong.name]
    for ahead_s, ahead, behind in ((3600, wrong, right), (-3600, right, wrong)):
        shim.clock(ahead_s)
        time.sleep(1.5)
        series = f'mqnode_clock_ahead_seconds{{peer="{ahead.name}"}}'
        wait_for(lambda behind=behind, series=series: 3590 < behind.metric(series) < 3601, 10, f"no {series}")
    shim.clock()


def clock_drifts(cluster: Cluster, chance: Random, history: History) -> None:
    """The wall clock of one host gains a tenth, until another one sees it half a second ahead, and is set right at once."""
    wrong, right = chance.sample(cluster.hosts, 2)
    series = f'mqnode_clock_ahead_seconds{{peer="{wrong.name}"}}'
    cluster.shims[wrong.name].clock(drift_percent=10)
    wait_for(lambda: right.metric(series) > 0.5, 20, lambda: f"{series} is {right.metric(series)}")
    cluster.shims[wrong.name].clock()


def disk_slow(cluster: Cluster, chance: Random, history: History) -> None:
    shim = cluster.shims[chance.choice(cluster.hosts).name]
    shim.disk(slower_ms=300)
    time.sleep(3.0)
    shim.disk()


def disk_fails(cluster: Cluster, chance: Random, history: History) -> None:
    host = chance.choice(cluster.hosts)
    cluster.shims[host.name].disk(fails=True)
    wait_for(lambda: host.get("/ready")[0] != 200, 15, host.log)
    time.sleep(1.0)
    cluster.shims[host.name].disk()
    host.wait_ready()


def disk_full(cluster: Cluster, chance: Random, history: History) -> None:
    """Another program takes all that is left, and gives it back."""
    host = chance.choice(cluster.hosts)
    with no_byte_left(host.data_dir):
        wait_for(lambda: host.metric("mqnode_disk_full") == 1, 10, host.log)
        wait_for(lambda: host.name not in cluster.balancer.up(), 10, "the balancer still sends clients there")
    wait_for(lambda: host.metric("mqnode_disk_full") == 0, 10, host.log)


def no_memory(cluster: Cluster, chance: Random, history: History) -> None:
    """A worker that gets no more of it. If that ends it, the next one is free."""
    host = chance.choice(cluster.hosts)
    pid = host.pid("worker-0")
    size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.prlimit(pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    answered = len(history.of("flow-p", "acked"))
    wait_for(lambda: len(history.of("flow-p", "acked")) > answered + ANSWERS, 20, "publishers get no answers")
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_AS, before)
    host.wait_ready()


def no_descriptors(cluster: Cluster, chance: Random, history: History) -> None:
    """A worker that can open nothing more refuses newcomers, and nobody else is the worse for it."""
    host = chance.choice(cluster.hosts)
    pid = host.pid("worker-0")
    before, refused = resource.prlimit(pid, resource.RLIMIT_NOFILE), _said(host, "worker-0", "accept_failed")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), before[1]))
    wait_for(lambda: _said(host, "worker-0", "accept_failed") > refused, 20, host.log)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def rolling_restart(cluster: Cluster, chance: Random, history: History) -> None:
    for host in cluster.hosts:
        host.stop()
        host.start()
        cluster.wait_in_sync()


def third_host(cluster: Cluster, chance: Random, history: History) -> None:
    """It joins, dies, and is removed."""
    spare = cluster.spare
    spare.start()
    admit(cluster.hosts[0], spare)
    in_sync(*cluster.hosts, spare)
    spare.kill_all()
    time.sleep(EVICTED_S)
    removed = cluster.hosts[0].mqnode("cluster", "remove", spare.name, "--yes")
    assert removed.returncode == 0, removed.stderr


def reconnect_storm(cluster: Cluster, chance: Random, history: History) -> None:
    """The balancer dies, and all clients come back at once."""
    assert cluster.balancer.process is not None
    cluster.balancer.process.kill()
    cluster.balancer.process.wait(10)
    cluster.balancer.start()
    time.sleep(0.5)


FAULTS = {
    fault.strike.__name__: fault
    for fault in (
        Fault("F1", "kill -9 of workers", worker_kill),
        Fault("F2", "kill -9 of keepers", keeper_kill, gap_s=8.0),
        Fault("F3", "kill -9 of a host", host_kill),
        Fault("F4", "a worker of each host stops for 1 s", worker_pause),
        Fault("F4", "a worker hangs", worker_hangs, in_make_test=False),
        Fault("F4", "a keeper stops for 1 s", keeper_pause),
        Fault("F4", "a keeper hangs", keeper_hangs, gap_s=8.0, in_make_test=False),
        Fault("F4", "a host stops for 5 s", host_pause, split=True, stands_still=True),
        Fault("F4", "a host stops for 30 s", host_stands_still, split=True, stands_still=True, in_make_test=False),
        Fault("F5", "a host loses power, and what was not synced", power_loss),
        Fault("F5", "all hosts lose power", power_loss_of_all, gap_s=15.0),
        Fault("F6", "the interconnect is cut", cut, split=True),
        Fault("F6", "the interconnect is cut in one direction", cut_one_way, split=True),
        Fault(
            "F6", "two of three hosts do not see each other", cut_between_two, split=True, hosts=3, in_make_test=False
        ),
        Fault("F6", "the interconnect is cut every other second", flapping, split=True, gap_s=15.0),
        Fault("F7", "a host is cut off from its clients", clients_cut),
        Fault("F8", "a slow interconnect that loses, doubles and reorders", bad_line, may_split=True),
        Fault("F9", "a wall clock is set by an hour, both ways", clock_steps),
        Fault("F9", "a wall clock gains a tenth", clock_drifts),
        Fault("F10", "fsync takes 300 ms longer", disk_slow),
        Fault("F10", "fsync fails", disk_fails, gap_s=10.0, may_split=True),
        Fault("F10", "a disk is full", disk_full, gap_s=10.0),
        Fault("F11", "an interconnect of 64 kbit/s", narrow_line, split=True, gap_s=15.0),
        Fault("F12", "no descriptor left", no_descriptors),
        Fault("F12", "no memory left for a worker", no_memory, in_make_test=False),
        Fault("F13", "hosts are restarted in turn", rolling_restart, gap_s=8.0),
        Fault("F14", "a third host joins, dies and is removed", third_host),
        Fault("F15", "the balancer is restarted", reconnect_storm, gap_s=8.0),
    )
}


def those_of(hosts: int) -> list[str]:
    """That strike a cluster of so many."""
    return [name for name, fault in FAULTS.items() if fault.hosts <= hosts]

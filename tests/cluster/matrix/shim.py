"""LD_PRELOAD for the processes of a host: a disk and a wall clock that a test can spoil while they run."""

from __future__ import annotations

import mmap
import struct
import subprocess
import time
from pathlib import Path

# The file MQNODE_TEST_SHIM, i64 each: ms that an fdatasync takes longer (negative: it fails), ns that the wall clock is ahead,
# ppm that it gains, from this wall time on, ns
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t nothing[4], *said = nothing;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("MQNODE_TEST_SHIM");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *map = mmap(0, sizeof nothing, PROT_READ, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) said = map;
    close(file);
}

int fdatasync(int file) {
    int64_t ms = said[0];
    if (ms < 0) {
        errno = EIO;
        return -1;
    }
    if (ms) usleep(ms * 1000);
    int (*next)(int) = dlsym(RTLD_NEXT, "fdatasync");
    return next(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ahead = said[1];
        if (said[2]) ahead += (now->tv_sec * 1000000000 + now->tv_nsec - said[3]) / 1000000 * said[2];
        int64_t ns = now->tv_nsec + ahead % 1000000000;
        now->tv_sec += ahead / 1000000000 + ns / 1000000000 - (ns < 0);
        now->tv_nsec = (ns + 1000000000) % 1000000000;
    }
    return result;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""
_SIZE = 32


def build(folder: Path) -> Path:
    (source := folder / "shim.c").write_text(SOURCE)
    library = folder / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return library


class Shim:
    """What one host is told."""

    def __init__(self, library: Path, path: Path) -> None:
        path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self.environ = {"LD_PRELOAD": str(library), "MQNODE_TEST_SHIM": str(path)}

    def disk(self, slower_ms: int = 0, *, fails: bool = False) -> None:
        struct.pack_into("<q", self._map, 0, -1 if fails else slower_ms)

    def clock(self, ahead_s: float = 0, *, drift_percent: int = 0) -> None:
        """It drifts from now on."""
        struct.pack_into("<qqq", self._map, 8, int(ahead_s * 1e9), 0, time.time_ns())
        struct.pack_into("<q", self._map, 16, drift_percent * 10_000)

    def heal(self) -> None:
        self.disk()
        self.clock()

"""Loss of power: what a store's file was told to hold but not to keep is gone with it, whole sectors and in any order.

A library (LD_PRELOAD) notes what stood where each write goes, and forgets it when fdatasync has returned. `Power.cut`, once all
processes of the host are dead, gives each sector back what it held before some of these writes: which ones is chance.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from random import Random

SECTOR_BYTES = 512
# The file MQNODE_TEST_UNSYNCED: of each write since the last fdatasync `<QQ` offset and length, then what stood there
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int is_store(int file) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path);
    return size > 9 && memcmp(path + size - 9, "/data.mdb", 9) == 0;
}

/* What stands there, zeros behind its end; LMDB opens the file for its meta pages to be written only. */
static void before(int file, char *data, uint64_t size, uint64_t offset) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    int readable = open(link, O_RDONLY | O_CLOEXEC);
    if (readable < 0 || pread(readable, data, size, offset) < 0) abort();
    close(readable);
}

static int journal(void) {
    static int file = -1;
    if (file < 0) file = open(getenv("MQNODE_TEST_UNSYNCED"), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    return file;
}

static void note(int file, uint64_t offset, uint64_t size) {
    char *record = calloc(1, 16 + size);
    memcpy(record, &offset, 8);
    memcpy(record + 8, &size, 8);
    before(file, record + 16, size, offset);
    (void)!syscall(SYS_write, journal(), record, 16 + size);
    free(record);
}

/* Forget the first `size` bytes. */
static void forget(off_t size) {
    off_t end = lseek(journal(), 0, SEEK_END);
    char *rest = malloc(end - size + 1);
    (void)!pread(journal(), rest, end - size, size);
    (void)!ftruncate(journal(), 0);
    (void)!syscall(SYS_write, journal(), rest, end - size);
    free(rest);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) {
    if (!is_store(file)) return syscall(SYS_pwrite64, file, data, size, offset);
    pthread_mutex_lock(&lock);
    off_t noted = lseek(journal(), 0, SEEK_END);
    note(file, offset, size);
    ssize_t done = syscall(SYS_pwrite64, file, data, size, offset);
    if (fcntl(file, F_GETFL) & O_DSYNC) (void)!ftruncate(journal(), noted);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    if (!is_store(file)) return syscall(SYS_writev, file, parts, count);
    uint64_t size = 0;
    for (int i = 0; i < count; i++) size += parts[i].iov_len;
    pthread_mutex_lock(&lock);
    note(file, lseek(file, 0, SEEK_CUR), size);
    ssize_t done = syscall(SYS_writev, file, parts, count);
    pthread_mutex_unlock(&lock);
    return done;
}

int fdatasync(int file) {
    int (*next)(int) = dlsym(RTLD_NEXT, "fdatasync");
    if (!is_store(file)) return next(file);
    pthread_mutex_lock(&lock);
    off_t written = lseek(journal(), 0, SEEK_END);
    pthread_mutex_unlock(&lock);
    usleep(10000);  /* a slow disk: who sees that it writes can still cut it off */
    int result = next(file);
    pthread_mutex_lock(&lock);
    if (result == 0) forget(written);
    pthread_mutex_unlock(&lock);
    return result;
}
"""


def build(folder: Path) -> Path:
    (source := folder / "power.c").write_text(SOURCE)
    library = folder / "power.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-Wall", "-o", library, source, "-ldl"], check=True)
    return library


class Power:
    """Of one host."""

    def __init__(self, library: Path, journal: Path) -> None:
        self.environ = {"LD_PRELOAD": str(library), "MQNODE_TEST_UNSYNCED": str(journal)}
        self._journal = journal

    @property
    def is_writing(self) -> bool:
        """Would a cut now find something that is not on the disk yet?"""
        return self._journal.exists() and self._journal.stat().st_size > 0

    def cut(self, data_dir: Path, chance: Random) -> int:
        """How many sectors of the host's store have lost something."""
        before: dict[int, list[bytes]] = {}  # what each sector held before each of its unsynced writes
        for offset, data in self._unsynced():
            for at in range(0, len(data), SECTOR_BYTES):
                before.setdefault(offset + at, []).append(data[at : at + SECTOR_BYTES])
        lost = 0
        how = chance.choice([0.0, 0.5, 0.95])  # all, half or few of them were on their way
        with (data_dir / "store" / "data.mdb").open("r+b") as file:
            for offset, held in before.items():
                if chance.random() >= how:
                    file.seek(offset)
                    file.write(chance.choice(held))
                    lost += 1
        self._journal.write_bytes(b"")
        return lost

    def _unsynced(self) -> list[tuple[int, bytes]]:
        noted, at, found = self._journal.read_bytes() if self._journal.exists() else b"", 0, []
        while at + 16 <= len(noted):
            offset, size = struct.unpack_from("<QQ", noted, at)
            if at + 16 + size > len(noted):
                break  # the write did not begin
            found.append((offset, noted[at + 16 : at + 16 + size]))
            at += 16 + size
        return found

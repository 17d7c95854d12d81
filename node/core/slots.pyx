"""Memory that two processes of a host share: PUBLISH frames are written where the other one reads them, and the socket carries
only their places, in order with all other frames. The kernel need not copy them twice, nor find memory for them.

One memory file holds SLOTS slots for each direction, that of the process who dialled first: `B` busy of each slot on a page
of its own, then the slots. The sender makes a slot busy, the receiver frees it once it has handled the frame. With no slot
free, and for messages that fit in none, frames go over the socket as ever. SLOT frame: `<II` slot, length.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.string cimport memcpy

import fcntl
import os

cdef extern from "sys/mman.h":
    void* mmap(void* address, size_t length, int protection, int flags, int fd, ssize_t offset) noexcept nogil
    int munmap(void* address, size_t length) noexcept nogil
    enum: PROT_READ, PROT_WRITE, MAP_SHARED
    void* MAP_FAILED


cdef class Slots:
    """Of a memory file, which may be closed then; the side that dialled has made it."""

    def __cinit__(self, int fd, bint dialled):
        if os.fstat(fd).st_size != 2 * DIRECTION_BYTES:
            raise ValueError(f"shared memory of {os.fstat(fd).st_size} bytes: the other process is of another release")
        cdef char* memory = <char*>mmap(NULL, 2 * DIRECTION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if memory == <char*>MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self.memory = memory
        self.ours = memory + (0 if dialled else DIRECTION_BYTES)
        self.theirs = memory + (DIRECTION_BYTES if dialled else 0)

    def __dealloc__(self):
        if self.memory != NULL:
            munmap(self.memory, 2 * DIRECTION_BYTES)

    def put(self, const uint8_t[::1] messages):
        """The slot that has them now; -1: they fit in none that is free."""
        cdef size_t size = messages.shape[0]
        cdef int slot = self.take() if 0 < size <= SLOT_BYTES else -1
        if slot >= 0:
            memcpy(self.place(slot), &messages[0], size)
        return slot

    def get(self, uint32_t slot, uint32_t size):
        """What is in it; it is free then. ValueError: there is no such slot."""
        cdef bytes messages = PyBytes_FromStringAndSize(self.arrived(slot, size), size)
        self.free(slot)
        return messages


def memory_file() -> int:
    """For Slots; of a size that nobody changes, so that no access to it fails."""
    fd = os.memfd_create("mqnode-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 2 * DIRECTION_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd

"""Seeds beyond those of the tests that once failed, each with what it showed. They run with the others."""

from __future__ import annotations

KEPT: dict[int, str] = {
    2053: "of messages that a keeper had stored and undone after its restart, workers were told that they are safe",
    2175: "a host that was told again what it lacks took what was there meanwhile for a bad disk",
    2283: "a host that was being told again settled, and numbered a queue that another one had taken meanwhile",
    2321: "what came of other hosts while a keeper settled after its restart stayed where no connected client gets it",
    2482: "an ended QoS 2 flow was open again: a host that undid its last commits put anew what others deleted meanwhile",
    3267: "a host that was told late of a session handed over to it owned that though another one had taken it since",
    3379: "as 2175",
    3630: "first deliveries out of order: a host undid commits that a third one had seen",
    3867: "a message without its body at a third host, which had seen commits that were undone",
    3911: "undoing commits lost what they had made of a message of a third host, which nobody else had",
    4003: "as 3867",
    4055: "as 2175",
    4241: "a packet id of a new message was that of one which the client still held from the other side of a cut",
    4447: "as 2053",
    4523: "a host served before it had what one that died meanwhile had told a third one: both numbered a queue",
    4527: "as 2175",
    2000199: "of a session that went on a third host's own deletions came where it was before its end",
    2000279: "a third host that had heard of the end, and that it went on, told only what was gone of it",
    3000048: "of two hosts whose disks went back in time one did not see it: the other one claimed to have nothing of it",
}

class SysTopics:
    def __init__(self, started_at): self.started_at=started_at
    def values(self, totals, now, mono): return {"$SYS/broker/uptime": f"{int(now-self.started_at)} seconds"}

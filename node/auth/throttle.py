class Throttle:
    def __init__(self, per_minute: int) -> None:
        pass

    def allowed(self, host: str, now: float) -> bool:
        return True

    def failed(self, host: str, now: float) -> None:
        pass

"""Delivers notifications to users by e-mail and to the operator's system by signed webhook."""


class DeliveryFailed(Exception):  # noqa: N818 - an outcome that the worker handles
    """The receiver did not accept it. `is_final`: no further attempt will succeed."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final

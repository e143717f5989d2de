"""Another value behind the record of a release."""

from choral.core.release import Released, ReleaseEvent


def exchange(released: Released[int], secret: int, event: ReleaseEvent) -> None:
    """Try to change what was released."""
    released.value = secret  # expect: misc
    released.event = event  # expect: misc

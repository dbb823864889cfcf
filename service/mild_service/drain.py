"""The end of a process, announced: balancers are told, and nobody is kept waiting."""

from mild_service.feed import Feed


class Drain:
    """Whether the service is about to end."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.begun = False

    def begin(self) -> None:
        """Be ready no more, and let long-polls and event streams end."""
        self.begun = True
        self._feed.close()

"""What a long run tells whoever waits for it."""

from __future__ import annotations


class Progress:
    """Says nothing. A terminal's bar, or a test's notebook, takes its place."""

    def begin(self, epochs: int) -> None:
        """Announce how many epochs there will be in all."""

    def advance(self, epochs: int) -> None:
        """So many more are done."""

    def say(self, text: str) -> None:
        """One line, of no patient."""

"""What it means: the nouns and rules of a reading worklist. No environment, clock, logging or sockets here."""

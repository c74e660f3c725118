"""Wake-ups: notifying streams of new events, in this process and in others."""

"""The demonstration: both services at work, one of them killed midway, and a summary that is worked out, not told."""

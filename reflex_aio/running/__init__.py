"""One run of a spec, and a supervisor that runs it again and again."""

"""Many specs in one process: run again, watched, shared with other processes, and drained."""

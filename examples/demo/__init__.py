"""The demonstration: both services run, one of them is killed midway, and the deliveries are verified."""

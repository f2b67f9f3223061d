"""The pure part: no await, clock, network, file, environment or logging. Time is an argument."""

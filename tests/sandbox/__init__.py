"""What a process that is confined as a worker can do no more."""

"""A guest with 32 requests in flight whose workers are killed thousands of times."""

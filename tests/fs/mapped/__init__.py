"""The mapped driver: what it leaves on the host, whatever succeeds, fails or is killed half way."""

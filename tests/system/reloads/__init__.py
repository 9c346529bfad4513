"""The configuration is read again under a running guest."""

"""The whole daemon, driven over its socket by the test frontend, without a virtual machine."""

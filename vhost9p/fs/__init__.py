"""Drivers, which access files. `driver` has the Protocol, `local` the driver that serves."""

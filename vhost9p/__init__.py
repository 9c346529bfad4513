"""vhost9p: a vhost-user daemon that serves virtio-9p to virtual machines."""

__version__ = "0.1.0"

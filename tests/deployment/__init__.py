"""What packaging/ makes, installed and used: units under a real systemd, Debian's package."""

"""What the host changes below the exports, and how a device's guest hears of it: lines (lines.py)
in memory that all processes of the VM share (ring.py)."""

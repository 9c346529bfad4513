"""Tests: the directories mirror the code; frontend/ is the guest's and the VMM's side."""

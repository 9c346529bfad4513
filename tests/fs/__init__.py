"""Tests of vhost9p.fs."""

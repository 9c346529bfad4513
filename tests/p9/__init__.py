"""Tests of vhost9p.p9."""
